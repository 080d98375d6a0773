"""A file that is written whole: never half of it, never readable for others meanwhile, nothing left beside it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from fedafd.domain.whole_files import write_whole


def test_it_holds_what_was_written_last_with_its_mode_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_whole(path, "first")
    write_whole(path, "zweite ü", mode=0o600, sync=True)
    assert path.read_text(encoding="utf-8") == "zweite ü"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept"
    write_whole(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new", sync=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_write_the_same_file_leave_one_of_their_contents(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    contents = [bytes([number]) * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(write_whole, path), 20 * contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]
