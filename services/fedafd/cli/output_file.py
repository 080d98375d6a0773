"""Whether a file can be written where a person wants it, found before the work for it."""

from __future__ import annotations

import os
from pathlib import Path

from fedafd.domain.errors import ConfigurationError

__all__ = ["need_writable_file"]


def need_writable_file(path: Path) -> None:
    """Raise ConfigurationError unless `path` is a regular file or could become one."""
    try:
        there = path.exists()
        if path.is_dir():
            raise ConfigurationError(f"{path}: is a folder; name a file, such as one in it")
        if there and not path.is_file():
            raise ConfigurationError(f"{path}: is a pipe, socket or device; name a regular file")
        if not path.parent.is_dir():
            raise ConfigurationError(f"{path}: there is no folder {path.parent}; make it, or name another file")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}; name another file") from None
    # It is written beside and renamed.
    if not os.access(path.parent, os.W_OK) or (there and not os.access(path, os.W_OK)):
        raise ConfigurationError(f"{path}: cannot be written: no permission; name another file")
