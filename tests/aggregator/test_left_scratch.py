"""What commits leave in the temporary folder when their aggregator is killed goes with a later start."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fedafd.aggregator.arrivals import remove_left_scratch, scratch_folder


def test_folders_of_killed_commits_go_after_a_day_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as used:
        used.mkdir()
        names = [f"fedafd-{'0' * 32}", "fedafd-of-somebody", "f" * 32]
        for name in names:
            (tmp_path / name / "inner").mkdir(parents=True)
            os.utime(tmp_path / name, (0, time.time() - 25 * 3600))
        remove_left_scratch()
        assert {path.name for path in tmp_path.iterdir()} == {used.name, *names[1:]}
