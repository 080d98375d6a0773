"""Unpacking a model archive: plain files below one folder and nothing else, hashed on the way.

tarfile's own filters came with Python 3.11.4; Debian 12 has 3.11.2.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import IO

from fedafd.domain.errors import DataError

__all__ = ["extract_files"]


_BLOCK_BYTES = 1 << 20


def extract_files(archive: tarfile.TarFile, folder: Path) -> dict[str, str]:
    """Write the archive's files below `folder`; returns the SHA-256 of each by its path in the archive.

    Raises DataError for a link, a device, or a path that leads out.
    """
    root, digests = folder.resolve(), {}
    for member in archive:
        target = (root / member.name).resolve()
        if member.isdir() and target.is_relative_to(root):
            continue
        if not member.isfile() or not target.is_relative_to(root) or target == root:
            raise DataError(
                f"archive: {member.name[:80]!r} is not a plain file below the folder; nothing more was unpacked"
            )
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
