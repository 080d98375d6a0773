"""Files of an experiment, JSON or folders: written whole or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedafd.domain.errors import DataError
from fedafd.domain.whole_files import write_whole

__all__ = ["read_json", "write_folder", "write_json"]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    write_whole(path, json.dumps(content, indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """Raises DataError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: cannot be read: expected an object, found {type(content).__name__}")
    return content


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """All files or none: another worker may be writing the same, or the disk is full, and neither is an error."""
    with suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent, ignore_cleanup_errors=True) as path:
            for name, content in files.items():
                Path(path, name).write_bytes(content)
            Path(path).rename(folder)
