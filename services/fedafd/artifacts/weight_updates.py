"""A client's weights on the wire, for strategies that average them: safetensors with a group and a sample count.

The group's name holds a hash of the tensors' names, dtypes and shapes, which the receiver computes anew: members of a
group always fit each other, whatever a site sends.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from fedafd.artifacts.representations import need_distinct
from fedafd.domain.errors import UploadError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind

__all__ = ["check_weight_update", "group_name", "layout_of"]

_MOST_SAMPLES = 2**40
_OF_ODD_JSON = (OverflowError, RecursionError)
"""Of a count that is infinite, and of values nested ten thousand deep."""


def layout_of(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    """Eight hexadecimal digits for names, dtypes (such as float32) and shapes."""
    described = sorted((name, dtype, list(shape)) for name, (dtype, shape) in tensors.items())
    return sha256_of(json.dumps(described).encode())[:8]


def group_name(kind: ClientKind, layout: str, meaning: str) -> str:
    """Clients average with those of the same kind, layout, and meaning (vocabulary, labels, encoders; hashed)."""
    return f"{kind.value}-{layout}-{meaning}"


def check_weight_update(blob: bytes, kind: ClientKind) -> None:
    """Raises UploadError unless the blob can be averaged with its group."""
    try:
        tensors = load(blob)
        (length,) = struct.unpack_from("<Q", blob)
        meta: dict[str, Any] = json.loads(
            json.loads(blob[8 : 8 + length], object_pairs_hook=need_distinct)["__metadata__"]["meta"]
        )
        group, samples = str(meta["group"]), int(meta["num_private_samples"])
    except (struct.error, ValueError, SafetensorError, KeyError, TypeError, *_OF_ODD_JSON) as error:
        raise UploadError("weights are not readable as safetensors with a group and a number of samples") from error
    layout = layout_of({name: (str(value.dtype), value.shape) for name, value in tensors.items()})
    parts = group.split("-")
    if len(parts) != 3 or parts[:2] != [kind.value, layout] or not parts[2].isalnum() or len(parts[2]) > 64:
        raise UploadError(f"weights name another group, but their tensors make {kind.value}-{layout}-...")
    if not 0 <= samples <= _MOST_SAMPLES:
        raise UploadError(f"weights are of {samples} private samples; must be 1 or more, or 0 for not told")
    floats = [value for value in tensors.values() if np.issubdtype(value.dtype, np.floating)]
    broken = sum(not np.isfinite(value).all() for value in floats)
    if broken:
        raise UploadError(f"weights: {broken} of {len(tensors)} tensors have a value that is not finite")
