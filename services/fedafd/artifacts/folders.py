"""How a folder travels as one artifact: an uncompressed tar that is the same, byte for byte, for the same files.

Only plain files with relative paths are packed or accepted; there is nothing to execute and nothing to escape with.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from fedafd.artifacts.blocks import Span
from fedafd.domain.errors import UploadError

__all__ = ["MOST_FILES", "checked_path", "each_file", "file_spans", "pack_files", "pack_folder", "unpack_folder"]

MOST_FILES = 10_000
"""In a packed folder; an encoder's has a handful."""


def pack_folder(files: Mapping[str, bytes]) -> bytes:
    """Pack files, by relative path with forward slashes, in sorted order and without times or owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(files):
            tar.addfile(_member(path, len(files[path])), io.BytesIO(files[path]))
    return buffer.getvalue()


def pack_files(folder: Path, target: Path) -> None:
    """Pack all files below a folder into a file, the same bytes as pack_folder, piece by piece. Raises OSError."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    with target.open("wb") as packed, tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in sorted(files.items()):
            with path.open("rb") as content:
                tar.addfile(_member(name, path.stat().st_size), content)


def _member(path: str, size_bytes: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(checked_path(path))
    info.size, info.mode = size_bytes, 0o644
    return info


def unpack_folder(blob: bytes) -> dict[str, bytes]:
    """The files of a packed folder. Raises UploadError for anything that pack_folder would not have written."""
    return {path: content.read() for path, content in each_file(io.BytesIO(blob))}


def each_file(blob: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Path and content of each file of a packed folder, one after the other. Raises UploadError as unpack_folder."""
    for path, content, _ in _each_member(blob):
        yield path, content


def file_spans(blob: IO[bytes]) -> dict[str, Span]:
    """Where in a packed folder the content of each file lies. Raises UploadError as unpack_folder."""
    return {path: span for path, _, span in _each_member(blob)}


def _each_member(blob: IO[bytes]) -> Iterator[tuple[str, IO[bytes], Span]]:
    seen: set[str] = set()
    end = blob.seek(0, io.SEEK_END)
    blob.seek(0)
    try:
        with tarfile.open(fileobj=blob, mode="r:") as tar:
            for member in tar:
                path = checked_path(member.name)
                # Extended headers could announce any size: a sparse file of a few bytes unpacks to terabytes.
                plain = member.type == tarfile.REGTYPE and not member.pax_headers
                content = tar.extractfile(member) if plain else None
                if len(seen) >= MOST_FILES:
                    raise UploadError(f"bundle: holds more than {MOST_FILES} files")
                if content is None or path in seen:
                    raise UploadError("bundle: a member is not a plain file, or is there twice")
                # Whoever reads the content does so outside of this block, so a cut one is found here.
                if member.offset_data + member.size > end:
                    raise UploadError("bundle: not a readable tar archive")
                seen.add(path)
                yield path, content, Span(member.offset_data, member.offset_data + member.size)
    except (tarfile.TarError, ValueError, OSError, EOFError) as error:
        raise UploadError("bundle: not a readable tar archive") from error


def checked_path(path: str) -> str:
    """The path of a file in a folder, if it is plain and relative. Raises UploadError."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or str(PurePosixPath(path)) != path:
        raise UploadError("bundle: a member's name is not a plain relative path")
    return path
