"""SHA256SUMS of a model folder: by it a reader finds what was damaged, and so does `sha256sum -c`. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fedafd.domain.errors import DataError
from fedafd.domain.hashing import file_sha256, sha256_of

__all__ = ["SUMS", "check_sum", "check_sums", "read_sums", "sums_file", "write_sums"]

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sums_file(files: Mapping[str, bytes]) -> bytes:
    """The content of SHA256SUMS for files by their paths."""
    return _as_lines({path: sha256_of(content) for path, content in files.items()})


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of all files below a folder. Raises OSError."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    (folder / SUMS).write_bytes(_as_lines({path: sha256 for path, sha256 in sums.items() if path != SUMS}))


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by path; empty where the folder has no SHA256SUMS. Raises DataError for one that is unreadable."""
    sums_file = folder / SUMS
    try:
        lines = sums_file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{sums_file}: cannot be read: {error}; copy the model folder again") from None
    parsed = [_LINE.fullmatch(line) for line in lines]
    if None in parsed:
        number = parsed.index(None) + 1
        raise DataError(f"{sums_file}:{number}: is not a hash and a path; copy the model folder again")
    return {match.group(2): match.group(1) for match in parsed if match is not None}


def check_sum(folder: Path, name: str, sums: Mapping[str, str]) -> None:
    """Raise DataError for a file that is not what was written; one that `sums` does not name may be anything."""
    path = folder / name
    try:
        same = name not in sums or file_sha256(path) == sums[name]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not same:
        raise DataError(
            f"{path}: was changed or damaged since the model was written; {SUMS} names another hash. Copy the model"
            f" folder again, or remove {folder / SUMS} if the change is yours"
        )


def check_sums(folder: Path, below: str = "") -> None:
    """The same for all files that SHA256SUMS names, or those whose path starts with `below`; none may be missing."""
    sums = read_sums(folder)
    for name in sums:
        if name.startswith(below):
            check_sum(folder, name, sums)


def _as_lines(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(sums.items())).encode()
