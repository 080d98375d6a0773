"""What the headers of safetensors files say, read without the tensors: our own JSON, and where each tensor lies."""

from __future__ import annotations

import json
import struct
import threading
from itertools import pairwise
from typing import IO, Any

from fedafd.artifacts.blocks import Span

__all__ = [
    "MOST_HEADER_BYTES",
    "MOST_TENSORS",
    "distinct_header",
    "need_distinct",
    "need_few_tensors",
    "portions",
    "read_meta",
]

MOST_HEADER_BYTES = 8 << 20
"""Of a safetensors file that somebody else sends."""
MOST_TENSORS = 20_000
"""Of such a file that is loaded whole; the largest encoders have some thousands. A million without a number in them
took 12 s of CPU and 1.4 GB of a site, for 55 MiB."""
_LENGTH_BYTES = 8
_reading = threading.Lock()
"""What Python makes of a header takes several times as much as the header: one at a time is read in a process."""


def need_distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these names. Raises ValueError for a name that is there twice: which one counts?"""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name is there twice")
    return values


def distinct_header(header: bytes) -> dict[str, Any]:
    """The header of a safetensors file, without the length before it. Raises ValueError for a name that is there twice.

    The library takes such a file, and each reader another one of the two tensors.
    """
    with _reading:
        read: dict[str, Any] = json.loads(header, object_pairs_hook=need_distinct)
    return read


def need_few_tensors(file: IO[bytes]) -> None:
    """Raise ValueError for a safetensors file of more than MOST_TENSORS, before it is loaded, and for another file.

    It is read from where it stands, and stands there again after.
    """
    start = file.tell()
    begin = file.read(_LENGTH_BYTES)
    if len(begin) < _LENGTH_BYTES:
        raise ValueError("it ends before its header")
    (length,) = struct.unpack("<Q", begin)
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes, more than {MOST_HEADER_BYTES}")
    try:
        with _reading:
            header = json.loads(file.read(length))
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise ValueError(f"its header does not name at most {MOST_TENSORS} tensors")
    file.seek(start)


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


def portions(blob: bytes | memoryview) -> list[Span]:
    """Of a safetensors file its header and each of its tensors, in the order in which they lie; of another file all."""
    whole = [Span(0, len(blob))] if blob else []
    try:
        (length,) = struct.unpack_from("<Q", blob)
        begin = _LENGTH_BYTES + length
        if begin > len(blob):
            return whole
        header = json.loads(bytes(blob[_LENGTH_BYTES:begin]))
        header.pop("__metadata__", None)
        offsets = sorted(tuple(tensor["data_offsets"]) for tensor in header.values())
        tensors = [Span(begin + int(start), begin + int(end)) for start, end in offsets if start < end]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return whole
    spans = [Span(0, begin), *tensors]
    gapless = all(first.end == second.start for first, second in pairwise(spans)) and spans[-1].end == len(blob)
    return spans if gapless else whole
