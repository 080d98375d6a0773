"""Where the tensors of an encoder bundle lie, as its first bytes tell: known before the rest was downloaded."""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from fedafd.artifacts.blocks import Span
from fedafd.artifacts.headers import MOST_HEADER_BYTES, distinct_header
from fedafd.domain.errors import DataError

__all__ = ["BundleHead", "TensorPlace", "bundle_head"]

_WEIGHTS = "model.safetensors"
_TAR_BLOCK = tarfile.BLOCKSIZE
_LENGTH_BYTES = 8
_MOST_BYTES = 2 * MOST_HEADER_BYTES
"""Of all that lies before the first tensor: the files with names before the weights' own, and the header."""
_Offset = Annotated[int, Field(ge=0, le=2**62)]


class _Entry(BaseModel):
    """A tensor in a header of safetensors."""

    dtype: Annotated[str, Field(max_length=16)]
    shape: Annotated[list[_Offset], Field(max_length=16)]
    data_offsets: tuple[_Offset, _Offset]


_ENTRIES = TypeAdapter(dict[str, _Entry])


class TensorPlace(NamedTuple):
    """One tensor: its type in safetensors' words, its shape, and its bytes in the bundle."""

    dtype: str
    shape: tuple[int, ...]
    span: Span


class BundleHead(NamedTuple):
    """`num_bytes` lie before the first tensor; `tensors` are by name."""

    num_bytes: int
    tensors: dict[str, TensorPlace]


def bundle_head(begin: bytes, size_bytes: int) -> BundleHead | int:
    """What the first bytes of a bundle of `size_bytes` say, or how many of them are needed to say it.

    Raises DataError for what is no bundle, or one whose tensors begin after 16 MiB.
    """
    at = 0
    while True:
        if at + _TAR_BLOCK > len(begin):
            return _needed(at + _TAR_BLOCK + _LENGTH_BYTES, size_bytes)
        try:
            member = tarfile.TarInfo.frombuf(begin[at : at + _TAR_BLOCK], "utf-8", "strict")
        except (tarfile.TarError, ValueError) as error:
            raise DataError(f"encoder bundle: is no folder that was packed: {error}") from None
        if member.size < 0:  # base 256 has a sign; a step backwards would come by here again, for ever
            raise DataError(f"encoder bundle: its {member.name[:200]!r} is said to have {member.size} bytes")
        at += _TAR_BLOCK
        if member.name == _WEIGHTS:
            return _weights_head(begin, at, at + member.size, size_bytes)
        at += -(-member.size // _TAR_BLOCK) * _TAR_BLOCK


def _weights_head(begin: bytes, at: int, end: int, size_bytes: int) -> BundleHead | int:
    data = at + _LENGTH_BYTES
    if data > len(begin):
        return _needed(data, size_bytes)
    (length,) = struct.unpack_from("<Q", begin, at)
    if end > size_bytes or data + length > end:
        raise DataError(f"encoder bundle: its {_WEIGHTS} is longer than the bundle, or its header than the file")
    header, data = data, data + length
    if data > len(begin):
        return _needed(data, size_bytes)
    try:
        entries = distinct_header(begin[header:data])
        entries.pop("__metadata__", None)
        tensors = _ENTRIES.validate_python(entries)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = "wrong entries" if isinstance(error, ValidationError) else str(error)
        raise DataError(f"encoder bundle: its {_WEIGHTS} has no header of safetensors: {reason}") from None
    by_name = {}
    for name, entry in tensors.items():
        span = Span(data + entry.data_offsets[0], data + entry.data_offsets[1])
        if not data <= span.start <= span.end <= end:
            raise DataError(f"encoder bundle: tensor {name[:200]!r} lies outside of its file")
        by_name[name] = TensorPlace(entry.dtype, tuple(entry.shape), span)
    _need_gapless([tensor.span for tensor in by_name.values()], data, end)
    return BundleHead(data, by_name)


def _need_gapless(spans: Iterable[Span], start: int, end: int) -> None:
    """As in each file of safetensors. Many tensors at one place would let a site write each of them."""
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if span.start != start:
            raise DataError(f"encoder bundle: the tensors of its {_WEIGHTS} overlap, or have gaps between them")
        start = span.end
    if start != end:
        raise DataError(f"encoder bundle: its {_WEIGHTS} goes on behind its last tensor")


def _needed(count: int, size_bytes: int) -> int:
    if count > size_bytes:
        raise DataError("encoder bundle: ends before its first tensor")
    if count > _MOST_BYTES:
        raise DataError(f"encoder bundle: more than {_MOST_BYTES:,} bytes lie before its first tensor")
    return count
