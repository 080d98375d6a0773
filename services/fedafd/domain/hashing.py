"""SHA-256 in hexadecimal, by which everything that is stored and sent is named and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["file_sha256", "pieces_sha256", "sha256_of"]


def sha256_of(data: bytes | memoryview) -> str:
    """Of bytes at hand."""
    return hashlib.sha256(data).hexdigest()


def pieces_sha256(pieces: Iterable[bytes]) -> str:
    """Of pieces one after the other, such as those of a stored object."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's content, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
