"""Unpacking a model archive: plain files below one folder and nothing else.

tarfile's own filters came with Python 3.11.4; Debian 12 has 3.11.2.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from fedafd.domain.errors import DataError

__all__ = ["extract_files"]


def extract_files(archive: tarfile.TarFile, folder: Path) -> None:
    """Write the archive's files below `folder`. Raises DataError for a link, a device, or a path that leads out."""
    root = folder.resolve()
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
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)
