"""SHA-256 in hexadecimal, by which everything that is stored and sent is named and checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["file_sha256", "sha256_of"]


def sha256_of(data: bytes) -> str:
    """Of bytes at hand."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's content, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
