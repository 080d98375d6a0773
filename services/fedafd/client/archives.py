"""Unpacking a model archive: the announced files below one folder and nothing else, hashed on the way.

tarfile's own filters came with Python 3.11.4; Debian 12 has 3.11.2.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from fedafd.domain.errors import DataError
from fedafd.domain.process_errors import ControlPlaneError

__all__ = ["extract_files", "need_announced"]


_BLOCK_BYTES = 1 << 20


def extract_files(archive: tarfile.TarFile, folder: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """Write the archive's files below `folder`; returns the SHA-256 of each by its path in the archive.

    `sizes`: bytes of each announced file. Raises DataError for a link, a device, a path that leads out, and what is no
    archive; ControlPlaneError for a file that was not announced, or not of that size, before any of it is written: a
    thousand bytes of an archive with a hole in it are a file of terabytes.
    """
    try:
        return _extracted(archive, folder, sizes)
    except (tarfile.TarError, FileExistsError, NotADirectoryError) as error:
        raise DataError(f"archive: cannot be unpacked: {error}") from None


def need_announced(path: str, sizes: Mapping[str, int]) -> None:
    """Raise ControlPlaneError for a file that is none of those whose `sizes` were announced."""
    if path not in sizes:
        raise ControlPlaneError(f"{path[:80]}: came and was not announced; pull again")


def _extracted(archive: tarfile.TarFile, folder: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    root, digests = folder.resolve(), dict[str, str]()
    for member in archive:
        target = (root / member.name).resolve()
        if member.isdir() and target.is_relative_to(root):
            continue
        if not member.isfile() or not target.is_relative_to(root) or target == root:
            raise DataError(
                f"archive: {member.name[:80]!r} is not a plain file below the folder; nothing more was unpacked"
            )
        need_announced(member.name, sizes)
        if member.name in digests or member.issparse() or member.size != sizes[member.name]:
            raise ControlPlaneError(f"{member.name[:80]}: came with another content than announced; pull again")
        content = archive.extractfile(member)
        assert content is not None
        target.parent.mkdir(parents=True, exist_ok=True)
        digests[member.name] = _write(content, target)
    return digests


def _write(content: IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while block := content.read(_BLOCK_BYTES):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()
