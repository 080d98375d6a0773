"""A client's weights on the wire, for strategies that average them: safetensors with a group and a sample count.

The group's name holds a hash of the tensors' names, dtypes and shapes, which the receiver computes anew: members of a
group always fit each other, whatever a site sends. A blob is checked in pieces: it may be larger than the memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from fedafd.artifacts.headers import MOST_HEADER_BYTES, distinct_header
from fedafd.artifacts.representations import NUMBER_DTYPES
from fedafd.domain.errors import UploadError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind

__all__ = ["check_weight_update", "group_name", "layout_of"]

_MOST_SAMPLES = 2**40
_PIECE_BYTES = 1 << 20
_DTYPES = {"BOOL": np.dtype(bool), **NUMBER_DTYPES}
"""Of what safetensors calls them; their bytes are little-endian."""
_OF_ODD_JSON = (OverflowError, RecursionError)
"""Of a count that is infinite, and of values nested ten thousand deep."""


def layout_of(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    """Eight hexadecimal digits for names, dtypes (such as float32) and shapes."""
    described = sorted((name, dtype, list(shape)) for name, (dtype, shape) in tensors.items())
    return sha256_of(json.dumps(described).encode())[:8]


def group_name(kind: ClientKind, layout: str, meaning: str) -> str:
    """Clients average with those of the same kind, layout, and meaning (vocabulary, labels, encoders; hashed)."""
    return f"{kind.value}-{layout}-{meaning}"


class _Tensor(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int
    """Where its bytes lie in the file."""


def check_weight_update(file: Path, kind: ClientKind) -> None:
    """Raises UploadError unless the blob can be averaged with its group."""
    with file.open("rb") as blob:
        try:
            meta, tensors = _header(file, blob)
            group, samples = str(meta["group"]), int(meta["num_private_samples"])
        except (struct.error, ValueError, SafetensorError, KeyError, TypeError, *_OF_ODD_JSON) as error:
            raise UploadError("weights are not readable as safetensors with a group and a number of samples") from error
        layout = layout_of({name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()})
        parts = group.split("-")
        if len(parts) != 3 or parts[:2] != [kind.value, layout] or not parts[2].isalnum() or len(parts[2]) > 64:
            raise UploadError(f"weights name another group, but their tensors make {kind.value}-{layout}-...")
        if not 0 <= samples <= _MOST_SAMPLES:
            raise UploadError(f"weights are of {samples} private samples; must be 1 or more, or 0 for not told")
        broken = sum(not _is_finite(blob, tensor) for tensor in tensors.values())
    if broken:
        raise UploadError(f"weights: {broken} of {len(tensors)} tensors have a value that is not finite")


def _header(file: Path, blob: IO[bytes]) -> tuple[dict[str, Any], dict[str, _Tensor]]:
    """What the blob says of itself, and its tensors by name. Raises what the caller knows."""
    (length,) = struct.unpack("<Q", blob.read(8))
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    with safe_open(file, framework="numpy"):  # each tensor lies where it may, and fills its place
        pass
    header = distinct_header(blob.read(length))
    meta: dict[str, Any] = json.loads(header.pop("__metadata__")["meta"])
    tensors = {}
    for name, described in header.items():
        start, end = described["data_offsets"]
        tensors[name] = _Tensor(
            _DTYPES[described["dtype"]], tuple(described["shape"]), 8 + length + start, 8 + length + end
        )
    return meta, tensors


def _is_finite(blob: IO[bytes], tensor: _Tensor) -> bool:
    """Whether each of its values is; an integer always is."""
    if not np.issubdtype(tensor.dtype, np.floating):
        return True
    blob.seek(tensor.start)
    pieces = (min(_PIECE_BYTES, tensor.end - at) for at in range(tensor.start, tensor.end, _PIECE_BYTES))
    little = tensor.dtype.newbyteorder("<")
    return all(bool(np.isfinite(np.frombuffer(blob.read(size), dtype=little)).all()) for size in pieces)
