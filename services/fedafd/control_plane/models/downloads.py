"""Files and archives as responses, streamed from the store: no copy is kept, and no byte leaves that is not checked.

The first request for an object reads it twice: once to compare it with its hash, before the answer begins, and once to
send it; later ones cost what they ask for (checked.py). Sizes and hashes are known from the database, so a `Range` that
cannot be answered is refused before anything is read.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import StreamingResponse

from fedafd.control_plane.models.checked import CheckedObjects, CheckedPart
from fedafd.domain.errors import NotFoundError, RangeNotSatisfiableError
from fedafd.persistence.models import ModelFileRow

__all__ = ["archive_response", "check_file", "file_response"]

_BYTES = re.compile(r"\s*([0-9]{0,4000})-([0-9]{0,4000})\s*")


@dataclass(frozen=True)
class _Part:
    """Consecutive bytes of a download: those of a stored object, or some made here."""

    size_bytes: int
    stored: ModelFileRow | None = None
    content: bytes = b""


async def archive_response(
    request: Request, objects: CheckedObjects, files: Sequence[ModelFileRow], name: str
) -> StreamingResponse:
    """All files as an uncompressed tar, the same byte for byte each time.

    Raises NotFoundError, RangeNotSatisfiableError, ArtifactCorruptError.
    """
    if not files:
        raise NotFoundError(f"{name}: has no files")
    parts = _archive(sorted(files, key=lambda file: file.path))
    named = hashlib.sha256(
        "".join(f"{part.stored.path}\0{part.stored.sha256}\0" for part in parts if part.stored).encode()
    )
    return await _response(request, objects, parts, f"{name}.tar", "application/x-tar", named.hexdigest())


async def file_response(
    request: Request, objects: CheckedObjects, files: Sequence[ModelFileRow], wanted: str
) -> StreamingResponse:
    """One file. Raises NotFoundError naming what there is, RangeNotSatisfiableError, ArtifactCorruptError."""
    row = check_file(files, wanted)
    part = _Part(row.size_bytes, row)
    name = PurePosixPath(wanted).name
    return await _response(request, objects, [part], name, "application/octet-stream", row.sha256)


def check_file(files: Sequence[ModelFileRow], wanted: str) -> ModelFileRow:
    """The file of that path. Raises NotFoundError naming what there is."""
    row = next((file for file in files if file.path == wanted), None)
    if row is None:
        raise NotFoundError(f"{wanted}: the version has no such file; it has {', '.join(file.path for file in files)}")
    return row


async def _response(
    request: Request, objects: CheckedObjects, parts: Sequence[_Part], name: str, media_type: str, tag: str
) -> StreamingResponse:
    size, etag = sum(part.size_bytes for part in parts), f'"{tag}"'
    asked = request.headers.get("range")
    if asked is not None and request.headers.get("if-range", etag) == etag:
        piece = _range(asked, size)
    else:
        piece = None
    start, end = piece or (0, size)
    pieces = [await _piece(objects, *overlap) for overlap in _overlaps(parts, start, end)]
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": _disposition(name),
        "Content-Length": str(end - start),
        "ETag": etag,
    }
    if piece:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingResponse(_content(pieces), 206 if piece else 200, headers, media_type)


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None for what RFC 9110 lets a server answer with the whole.

    That are other units than bytes, and several ranges at once. Raises RangeNotSatisfiableError.
    """
    unit, is_one, text = asked.partition("=")
    if (is_one and unit.strip().lower() != "bytes") or "," in text:
        return None
    match = _BYTES.fullmatch(text)
    first, last = match.groups() if match else ("", "")
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
    else:
        start, end = max(size - int(last or 0), 0), size
    if start >= end:
        raise RangeNotSatisfiableError(
            f"Range {asked[:80]!r}: is no part of these {size} bytes; ask for `bytes=<first>-<last>`, counted from 0",
            size_bytes=size,
        )
    return start, end


def _disposition(name: str) -> str:
    quoted = quote(name)
    return f'attachment; filename="{name}"' if quoted == name else f"attachment; filename*=utf-8''{quoted}"


def _archive(files: Sequence[ModelFileRow]) -> list[_Part]:
    parts: list[_Part] = []
    for row in files:
        info = tarfile.TarInfo(row.path)
        info.size, info.mode = row.size_bytes, 0o644
        # As USTAR, but a path that is too long for it gets a header of its own.
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
        filling = -row.size_bytes % tarfile.BLOCKSIZE
        parts += [
            _Part(len(header), content=header),
            _Part(row.size_bytes, row),
            _Part(filling, content=bytes(filling)),
        ]
    end = 2 * tarfile.BLOCKSIZE
    end += -(sum(part.size_bytes for part in parts) + end) % tarfile.RECORDSIZE
    return [*parts, _Part(end, content=bytes(end))]


def _overlaps(parts: Sequence[_Part], start: int, end: int) -> Iterator[tuple[_Part, int, int]]:
    """The parts that the range touches, each with the range within it."""
    position = 0
    for part in parts:
        first, last = max(start - position, 0), min(end - position, part.size_bytes)
        position += part.size_bytes
        if first < last:
            yield part, first, last


async def _piece(objects: CheckedObjects, part: _Part, first: int, last: int) -> CheckedPart | bytes:
    return part.content[first:last] if part.stored is None else await objects.part(part.stored, first, last)


def _content(pieces: Sequence[CheckedPart | bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        else:
            yield from piece.pieces()
