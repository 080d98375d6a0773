"""The JSON that our safetensors files carry beside their tensors, read without the tensors."""

from __future__ import annotations

import json
import struct
from typing import Any

__all__ = ["read_meta"]


def read_meta(blob: bytes) -> dict[str, Any]:
    """The values under `meta` in a file's header. Raises ValueError for anything else than such a file."""
    try:
        (length,) = struct.unpack_from("<Q", blob)
        meta: dict[str, Any] = json.loads(json.loads(blob[8 : 8 + length])["__metadata__"]["meta"])
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no header with values of ours: {error}") from None
    if not isinstance(meta, dict):
        raise ValueError("no header with values of ours: `meta` is not an object")
    return meta
