"""What an encoder bundle holds, told without loading it: its architecture and how many numbers its encoder has.

A bundle's description could name an encoder far larger than its weights; so the encoder is also made of it on torch's
`meta` device, where tensors have shapes and no memory, and the larger of both counts.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import IO, NamedTuple

import torch

from fedafd.artifacts.folders import each_file
from fedafd.artifacts.headers import MOST_HEADER_BYTES
from fedafd.domain.errors import DataError
from fedafd.learning.sample_encoder import SampleEncoder

__all__ = ["BundleFacts", "bundle_facts"]

_SMALL_FILES = {"config.json", "tokenizer.json"}
_WEIGHTS = "model.safetensors"


class BundleFacts(NamedTuple):
    """Of one bundle."""

    architecture: str
    num_parameters: int
    """Of weights and buffers."""


def bundle_facts(path: Path) -> BundleFacts:
    """Raises DataError or UploadError for a file that is no bundle."""
    small: dict[str, bytes] = {}
    stored = None
    with path.open("rb") as blob:
        for name, content in each_file(blob):
            if name in _SMALL_FILES:
                small[name] = content.read()
            elif name == _WEIGHTS:
                stored = _numbers_in(content)
    if stored is None or "config.json" not in small:
        raise DataError(f"encoder bundle {path.name}: has no config.json, or no {_WEIGHTS}")
    source = f"encoder bundle {path.name}"
    try:
        described = json.loads(small["config.json"])
        architecture = str(described["encoder"]["architecture"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{source}: config.json describes no encoder: {error}") from None
    with torch.device("meta"):
        encoder = SampleEncoder.described(described, small.get("tokenizer.json"), source=source)
    return BundleFacts(
        architecture, max(stored, sum(tensor.numel() for tensor in encoder.network.state_dict().values()))
    )


def _numbers_in(content: IO[bytes]) -> int:
    """Of a safetensors file, by its header."""
    try:
        (length,) = struct.unpack("<Q", content.read(8))
        if length > MOST_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(content.read(length))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"encoder bundle: its {_WEIGHTS} is not readable as safetensors: {error}") from None
