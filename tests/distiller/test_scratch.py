"""The folder of a distiller without `cache_dir` outlives nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedafd.distiller.scratch import scratch_folder

HOLD = """
from fedafd.distiller.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "shards").mkdir()
    print(folder, flush=True)
    input()
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_distiller_left_is_removed_by_the_next_and_that_of_a_living_one_stays(parent: Path) -> None:
    environment = os.environ | {"TMPDIR": str(parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    killed, living = (
        subprocess.Popen([sys.executable, "-c", HOLD], env=environment, **pipes)  # type: ignore[call-overload]
        for _ in range(2)
    )
    try:
        left, kept = (Path(process.stdout.readline().strip()) for process in (killed, living))
        killed.kill()
        killed.wait()
        assert left.is_dir()
        with scratch_folder() as own:
            assert sorted(each for each in parent.iterdir() if each.is_dir()) == sorted([kept, own])
            assert (kept / "shards").is_dir()
        assert not own.exists()
        living.communicate("\n", timeout=60)
        assert not kept.exists()
    finally:
        for process in (killed, living):
            process.kill()
            process.communicate()
