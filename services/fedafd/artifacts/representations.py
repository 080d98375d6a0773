"""Representations on the wire: safetensors bytes, checked before anyone uses them.

Shape legend: N public samples, D embedding dimension. A blob holds one tensor per modality, `image` and `text`, each
[N, D] in the federation's wire dtype; int8 tensors come with their row scales, `<modality>.scale` [N] float32. The
metadata names the public set that the rows are about.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import EllipsisType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from fedafd.artifacts.halves import float32_of
from fedafd.artifacts.headers import need_distinct, need_few_tensors
from fedafd.domain.config import WireDtype
from fedafd.domain.errors import PublicSetMismatchError, RepresentationError
from fedafd.domain.kinds import Modality

__all__ = [
    "NORM_TOLERANCE",
    "NUMBER_DTYPES",
    "Tensor",
    "check_representations",
    "check_subject",
    "decode_global_representations",
    "decode_representations",
    "encode_representations",
    "opened",
]

NORM_TOLERANCE = 0.02
"""How far a row's length may be from 1: int8 with row scales at D = 8 is the coarsest we send."""

_NAMES = frozenset(f"{modality}{part}" for modality in Modality for part in ("", ".scale"))
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECKED_AT_ONCE = 1 << 17
"""Numbers of a tensor in memory: they stay in the cache of a core."""
NUMBER_DTYPES = {
    short: np.dtype(f"{kind}{bits}")
    for letter, kind in (("F", "float"), ("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
    if (short := f"{letter}{bits}") != "F8"
}
"""Of what safetensors calls them."""
_FLOATS = {WireDtype.FLOAT16: np.float16, WireDtype.FLOAT32: np.float32}


def encode_representations(
    reps: Mapping[Modality, NDArray[np.float32]], public_set_sha256: str, dtype: WireDtype = WireDtype.FLOAT16
) -> bytes:
    """Representations [N, D] by modality as safetensors bytes; the same bytes for the same values."""
    tensors: dict[str, NDArray[np.generic]] = {}
    for modality in sorted(reps):
        rows_ND = np.ascontiguousarray(reps[modality], dtype=np.float32)
        if dtype is WireDtype.INT8:
            largest_N = np.maximum(np.abs(rows_ND).max(axis=1), np.float32(1e-12))
            scale_N = (largest_N / np.float32(127)).astype(np.float32)
            tensors[modality.value] = np.rint(rows_ND / scale_N[:, None]).astype(np.int8)
            tensors[f"{modality.value}.scale"] = scale_N
        else:
            tensors[modality.value] = rows_ND.astype(_FLOATS[dtype])
    return save(tensors, metadata={"public_set_sha256": public_set_sha256})


def decode_representations(
    blob: bytes,
    *,
    modalities: Sequence[Modality],
    num_samples: int | None,
    embedding_dim: int,
    public_set_sha256: str,
    dtype: WireDtype,
    allow_more: bool = False,
) -> dict[Modality, NDArray[np.float32]]:
    """The representations in `blob` as float32 [N, D] by modality, if they are exactly what is expected.

    `num_samples` None takes N from the first tensor. With `allow_more` other modalities may be there; they are ignored.

    Raises RepresentationError for a wrong tensor name, dtype, shape, or value (not finite, not unit length), naming the
    tensor and what was expected; PublicSetMismatchError when the rows are about another public set.
    """
    metadata, tensors = _read(blob)
    check_subject(metadata, public_set_sha256)
    _check_names(tensors, modalities, dtype, allow_more=allow_more)
    count = num_samples if num_samples is not None else len(tensors[modalities[0].value])
    decoded = {}
    for modality in modalities:
        name = modality.value
        _check_form(tensors, name, (count, embedding_dim), dtype)
        decoded[modality] = _floats(tensors, name, dtype, slice(None))
        _check_values(decoded[modality], name)
    return decoded


def check_representations(
    file: Path,
    *,
    modalities: Sequence[Modality],
    num_samples: int,
    embedding_dim: int,
    public_set_sha256: str,
    dtype: WireDtype,
) -> None:
    """Raise as `decode_representations` does, holding a part of the rows in memory at a time."""
    with opened(file) as (metadata, tensors):
        check_subject(metadata, public_set_sha256)
        _check_names(tensors, modalities, dtype)
        for modality in modalities:
            name = modality.value
            _check_form(tensors, name, (num_samples, embedding_dim), dtype)
            rows = max(1, _CHECKED_AT_ONCE // embedding_dim)
            for first in range(0, num_samples, rows):
                part = slice(first, min(first + rows, num_samples))
                _check_values(_floats(tensors, name, dtype, part), name, first)


def decode_global_representations(
    blob: bytes, *, num_samples: int | None, embedding_dim: int, public_set_sha256: str, dtype: WireDtype
) -> dict[Modality, NDArray[np.float32]]:
    """I_g and T_g as `decode_representations` reads them; also in float32, as older distillers sent them.

    So a round that was prepared before an update goes on after it.
    """
    _, tensors = _read(blob)
    if all(tensor.dtype == np.float32 for tensor in tensors.values()):
        dtype = WireDtype.FLOAT32
    return decode_representations(
        blob,
        modalities=list(Modality),
        num_samples=num_samples,
        embedding_dim=embedding_dim,
        public_set_sha256=public_set_sha256,
        dtype=dtype,
    )


class Tensor(Protocol):
    """An array in memory or in a file: what it is, and some of its rows."""

    @property
    def dtype(self) -> object: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice | EllipsisType, /) -> NDArray[np.generic]: ...


class _TensorInFile:
    def __init__(self, piece: Any) -> None:
        self._piece = piece
        self.dtype = NUMBER_DTYPES[piece.get_dtype()]
        self.shape = tuple(int(length) for length in piece.get_shape())

    def __getitem__(self, rows: slice | EllipsisType, /) -> NDArray[np.generic]:
        rows_read: NDArray[np.generic] = self._piece[rows]
        return rows_read


def check_subject(metadata: Mapping[str, str], public_set_sha256: str) -> None:
    """Raise PublicSetMismatchError unless a blob's metadata says that it is about this public set."""
    about = metadata.get("public_set_sha256")
    if about != public_set_sha256:
        subject = about if about is not None and _SHA256.fullmatch(about) else "none"
        raise PublicSetMismatchError(
            f"representations are of public set {subject}, but this round is about {public_set_sha256};"
            " encode the public set that the task names"
        )


def _check_names(
    tensors: Collection[str], modalities: Sequence[Modality], dtype: WireDtype, *, allow_more: bool = False
) -> None:
    wanted = [m.value for m in modalities]
    names = wanted + [f"{name}.scale" for name in wanted if dtype is WireDtype.INT8]
    if not (set(names) <= set(tensors) if allow_more else sorted(tensors) == sorted(names)):
        raise RepresentationError(_unexpected(tensors, names))


def _check_form(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int], dtype: WireDtype) -> None:
    raw_ND = tensors[name]
    if raw_ND.dtype != np.dtype(dtype.value):
        raise RepresentationError(f"tensor {name!r} has dtype {raw_ND.dtype}, expected {dtype.value}")
    if raw_ND.shape != shape:
        raise RepresentationError(f"tensor {name!r} has shape {list(raw_ND.shape)}, expected {list(shape)}")
    if dtype is WireDtype.INT8:
        scale_N = tensors[f"{name}.scale"]
        if scale_N.dtype != np.float32 or scale_N.shape != shape[:1]:
            raise RepresentationError(f"tensor {name + '.scale'!r} must be float32 of shape [{shape[0]}]")


def _floats(tensors: Mapping[str, Tensor], name: str, dtype: WireDtype, rows: slice) -> NDArray[np.float32]:
    raw_ND = tensors[name][rows]
    if dtype is WireDtype.FLOAT16:
        return float32_of(raw_ND)
    rows_ND = raw_ND.astype(np.float32)
    if dtype is WireDtype.INT8:
        rows_ND *= tensors[f"{name}.scale"][rows].astype(np.float32)[:, None]
    return rows_ND


def _check_values(rows_ND: NDArray[np.float32], name: str, first: int = 0) -> None:
    """`first` is the number of the first row."""
    length_N = np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND))
    if not np.isfinite(length_N).all():
        row = int(np.flatnonzero(~np.isfinite(length_N))[0])
        raise RepresentationError(f"tensor {name!r} has a value that is not finite, first in row {first + row}")
    off_N = np.abs(length_N - 1) > NORM_TOLERANCE
    if off_N.any():
        row = int(np.flatnonzero(off_N)[0])
        raise RepresentationError(
            f"tensor {name!r}: row {first + row} has length {length_N[row]:.4f}, expected unit length"
        )


def _unexpected(tensor_names: Collection[str], names: Sequence[str]) -> str:
    """What is wrong with the tensors, without a word of the sender's: names of its own are counted."""
    ours, others = sorted(_NAMES & set(tensor_names)), len(set(tensor_names) - _NAMES)
    more = f" and {others} of other names" if others else ""
    return f"representations hold tensors {ours}{more}, expected {sorted(names)}"


def _read(blob: bytes) -> tuple[dict[str, str], dict[str, NDArray[np.generic]]]:
    with _readable():
        need_few_tensors(io.BytesIO(blob))
        tensors = load(blob)
        return _metadata(io.BytesIO(blob)), tensors


@contextmanager
def opened(path: Path) -> Iterator[tuple[dict[str, str], dict[str, Tensor]]]:
    """Metadata and tensors of a file of safetensors, read when they are asked for. Raises RepresentationError."""
    with ExitStack() as stack:
        with _readable():
            with path.open("rb") as plain:
                need_few_tensors(plain)
            file = stack.enter_context(safe_open(path, framework="numpy"))
            names = file.keys()
            tensors: dict[str, Tensor] = {name: _TensorInFile(file.get_slice(name)) for name in names}
            with path.open("rb") as plain:
                metadata = _metadata(plain)
        yield metadata, tensors


def _metadata(file: IO[bytes]) -> dict[str, str]:
    (length,) = struct.unpack("<Q", file.read(8))
    metadata = json.loads(file.read(length), object_pairs_hook=need_distinct).get("__metadata__") or {}
    return {str(key): str(value) for key, value in metadata.items()}


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (struct.error, ValueError, SafetensorError, KeyError) as error:
        raise RepresentationError("representations are not readable as safetensors") from error
