"""`make fuzz`, where atheris is installed: readers under a fuzzer that follows which of their lines run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fuzz.long import IS_LONG, SECONDS, first_seed, libfuzzer_seed
from tests.servers import ROOT

READERS = (
    "representations", "merged-states", "state", "weights", "checkpoint", "manifest",
    "BeginUpload", "CommitUpload", "Enroll", "CompleteStage",
)  # fmt: skip
pytestmark = [
    pytest.mark.skipif(not IS_LONG, reason="takes its time: make fuzz"),
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="NOT FUZZED by coverage: no atheris here"),
]


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_or_refuses_what_reaches_its_lines(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(tmp_path / "inputs")]
    seed = first_seed()
    sys.stderr.write(f"FUZZ_SEED={seed}\n")
    done = subprocess.run(
        [*command, f"-max_total_time={SECONDS:.0f}", f"-seed={libfuzzer_seed(seed)}", "-rss_limit_mb=4096"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "services"), str(ROOT), *sys.path])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    # It found its way from the good input to other lines.
    first, last = (int(found) for found in re.findall(r"(?:INITED|DONE) +cov: (\d+)", done.stderr))
    assert last > first > 0
