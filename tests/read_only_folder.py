"""A folder that is really read-only, for root as well, as a file system is after an error of its disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["read_only"]


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """While the block runs nothing below `folder` can be written or removed."""
    if os.geteuid() != 0:
        pytest.skip("to mount a folder read-only needs root")
    place = str(folder)
    if subprocess.run(["mount", "--bind", place, place], check=False).returncode:
        pytest.skip("this machine does not let root mount a folder")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        yield
    finally:
        subprocess.run(["umount", place], check=True)
