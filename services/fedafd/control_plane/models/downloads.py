"""Files and archives as responses. Every byte is checked against its hash before the first one is sent."""

from __future__ import annotations

import asyncio
import hashlib
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from fedafd.domain.errors import ArtifactCorruptError, NotFoundError
from fedafd.persistence.models import ModelFileRow
from fedafd.storage import ObjectStore

__all__ = ["archive_response", "file_response"]


async def archive_response(store: ObjectStore, files: Sequence[ModelFileRow], name: str) -> FileResponse:
    """All files as an uncompressed tar, the same byte for byte each time. Raises ArtifactCorruptError."""
    if not files:
        raise NotFoundError(f"{name}: has no files")
    path = await asyncio.to_thread(_written, lambda file: _write_archive(store, files, file))
    return _response(path, "application/x-tar", f"{name}.tar")


async def file_response(store: ObjectStore, files: Sequence[ModelFileRow], wanted: str) -> FileResponse:
    """One file; ranges are answered. Raises NotFoundError naming what there is, ArtifactCorruptError."""
    row = next((file for file in files if file.path == wanted), None)
    if row is None:
        raise NotFoundError(f"{wanted}: the version has no such file; it has {', '.join(file.path for file in files)}")
    path = await asyncio.to_thread(_written, lambda file: _write_checked(store, row, file))
    return _response(path, "application/octet-stream", Path(wanted).name)


def _response(path: Path, media_type: str, name: str) -> FileResponse:
    removal = BackgroundTask(path.unlink, missing_ok=True)
    return FileResponse(path, media_type=media_type, filename=name, background=removal)


def _written(write: Callable[[IO[bytes]], None]) -> Path:
    with tempfile.NamedTemporaryFile(prefix="fedafd-download-", delete=False) as file:
        path = Path(file.name)
        try:
            write(file.file)
        except BaseException:
            path.unlink()
            raise
    return path


def _write_archive(store: ObjectStore, files: Sequence[ModelFileRow], target: IO[bytes]) -> None:
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in sorted(files, key=lambda file: file.path):
            info = tarfile.TarInfo(row.path)
            info.size, info.mode = row.size_bytes, 0o644
            with tempfile.TemporaryFile() as content:
                _write_checked(store, row, content)
                content.seek(0)
                tar.addfile(info, content)


def _write_checked(store: ObjectStore, row: ModelFileRow, target: IO[bytes]) -> None:
    digest = hashlib.sha256()
    for block in store.stream(row.key):
        digest.update(block)
        target.write(block)
    if digest.hexdigest() != row.sha256:
        raise ArtifactCorruptError(
            f"object {row.key}: its content has SHA-256 {digest.hexdigest()}, expected {row.sha256}; "
            "restore it from a backup",
            key=row.key,
        )
