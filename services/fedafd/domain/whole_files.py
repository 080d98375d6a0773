"""Writes a file whole or not at all: a reader, and a crash of the program, find the old content or the new.

What a crash left of a folder is removed before it is made anew, and that it cannot be is told.

What must outlast a power cut besides is written by `fedafd.agent.files.write_atomically`, which stands on this.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

__all__ = ["remove_leftover", "write_whole"]


def remove_leftover(folder: Path) -> None:
    """Remove a folder with all that is in it; none is no fault. Raises OSError.

    Who passes over what cannot be removed meets "File exists" next, on a file system that has turned read-only.
    """
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def write_whole(path: Path, content: bytes | str, *, mode: int = 0o644, sync: bool = False) -> None:
    """Write beside `path`, then rename. `sync`: the bytes are on the disk before the name is.

    Nobody but its owner can read a file of mode 0600 at any moment. Raises OSError, and leaves nothing behind then.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{threading.get_native_id()}.part")
    try:
        # What a thread of the same number left behind keeps the mode that it had.
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
