"""A disk that is really full: a small file system over a folder, filled to its last byte."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["full_disk"]


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """While the block runs nothing can be written below `folder`, and what was there is hidden."""
    if os.geteuid() != 0:
        pytest.skip("mounting a full file system needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        with pytest.raises(OSError) as raised:
            (folder / "filler").write_bytes(bytes(1 << 20))
        assert raised.value.errno == errno.ENOSPC
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
