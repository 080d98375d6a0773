"""Representations on the wire: safetensors bytes, checked before anyone uses them.

Shape legend: N public samples, D embedding dimension. A blob holds one tensor per modality, `image` and `text`, each
[N, D] in the federation's wire dtype; int8 tensors come with their row scales, `<modality>.scale` [N] float32. The
metadata names the public set that the rows are about.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedafd.domain.config import WireDtype
from fedafd.domain.errors import PublicSetMismatchError, RepresentationError
from fedafd.domain.kinds import Modality

__all__ = [
    "NORM_TOLERANCE",
    "decode_global_representations",
    "decode_representations",
    "encode_representations",
    "need_distinct",
]

NORM_TOLERANCE = 0.02
"""How far a row's length may be from 1: int8 with row scales at D = 8 is the coarsest we send."""

_NAMES = frozenset(f"{modality}{part}" for modality in Modality for part in ("", ".scale"))
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
    about = metadata.get("public_set_sha256")
    if about != public_set_sha256:
        told = about if about is not None and _SHA256.fullmatch(about) else "none"
        raise PublicSetMismatchError(
            f"representations are of public set {told}, but this round is about {public_set_sha256};"
            " encode the public set that the task names"
        )
    wanted = [m.value for m in modalities]
    names = wanted + [f"{name}.scale" for name in wanted if dtype is WireDtype.INT8]
    if not (set(names) <= set(tensors) if allow_more else sorted(tensors) == sorted(names)):
        raise RepresentationError(_unexpected(tensors, names))
    count = num_samples if num_samples is not None else len(tensors[wanted[0]])
    return {m: _checked_rows(tensors, m.value, (count, embedding_dim), dtype) for m in modalities}


def decode_global_representations(
    blob: bytes, *, num_samples: int | None, embedding_dim: int, public_set_sha256: str, dtype: WireDtype
) -> dict[Modality, NDArray[np.float32]]:
    """I_g and T_g as `decode_representations` reads them; also in float32, as distillers of before sent them.

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


def _checked_rows(
    tensors: Mapping[str, NDArray[np.generic]], name: str, shape: tuple[int, int], dtype: WireDtype
) -> NDArray[np.float32]:
    raw_ND = tensors[name]
    if raw_ND.dtype != np.dtype(dtype.value):
        raise RepresentationError(f"tensor {name!r} has dtype {raw_ND.dtype}, expected {dtype.value}")
    if raw_ND.shape != shape:
        raise RepresentationError(f"tensor {name!r} has shape {list(raw_ND.shape)}, expected {list(shape)}")
    rows_ND = raw_ND.astype(np.float32)
    if dtype is WireDtype.INT8:
        scale_N = tensors[f"{name}.scale"]
        if scale_N.dtype != np.float32 or scale_N.shape != shape[:1]:
            raise RepresentationError(f"tensor {name + '.scale'!r} must be float32 of shape [{shape[0]}]")
        rows_ND *= scale_N.astype(np.float32)[:, None]
    length_N = np.linalg.norm(rows_ND, axis=1)
    if not np.isfinite(length_N).all():
        row = int(np.flatnonzero(~np.isfinite(length_N))[0])
        raise RepresentationError(f"tensor {name!r} has a value that is not finite, first in row {row}")
    off_N = np.abs(length_N - 1) > NORM_TOLERANCE
    if off_N.any():
        row = int(np.flatnonzero(off_N)[0])
        raise RepresentationError(f"tensor {name!r}: row {row} has length {length_N[row]:.4f}, expected unit length")
    return rows_ND


def _unexpected(found: Collection[str], names: Sequence[str]) -> str:
    """What is wrong with the tensors, without a word of the sender's: names of its own are counted."""
    ours, others = sorted(_NAMES & set(found)), len(set(found) - _NAMES)
    more = f" and {others} of other names" if others else ""
    return f"representations hold tensors {ours}{more}, expected {sorted(names)}"


def need_distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these names. Raises ValueError for a name that is there twice: which one counts?"""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _read(blob: bytes) -> tuple[dict[str, str], dict[str, NDArray[np.generic]]]:
    try:
        # First by the library, which bounds the header's length and depth.
        tensors = load(blob)
        (length,) = struct.unpack_from("<Q", blob)
        header = json.loads(blob[8 : 8 + length], object_pairs_hook=need_distinct)
    except (struct.error, ValueError, SafetensorError, KeyError) as error:
        raise RepresentationError("representations are not readable as safetensors") from error
    found = header.get("__metadata__") or {}
    return {str(key): str(value) for key, value in found.items()}, tensors
