"""Each benchmark runs at tiny sizes, so that none rots. No figure is looked at here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from benchmarks.__main__ import NAMES, main
from tests.end_to_end.supervised import LoggedSupervisor
from tests.servers import ROOT

from fedafd.domain.kinds import ClientKind

ON_A_STAND_IN = "gpu_steps"
"""The stand-in for a GPU stays in the process that it is in."""


@pytest.mark.parametrize("name", sorted({*NAMES} - {ON_A_STAND_IN}))
def test_benchmark_runs_and_writes_its_figures(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = import_module(f"benchmarks.{name}")
    monkeypatch.setattr("fedafd.local.supervisor.Supervisor", LoggedSupervisor)  # what it starts is forked
    if hasattr(benchmark, "Supervisor"):
        monkeypatch.setattr(benchmark, "Supervisor", LoggedSupervisor)
    arguments = ["--tiny", "--repeats", "1", "--clock", "cpu", "--device", "cpu", "--output", str(tmp_path)]
    assert main([name, *arguments]) == 0
    (path,) = tmp_path.glob("*.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["machine"]["cores"] >= 1
    assert {report["benchmark"] for report in written["reports"]} == {name}
    assert all(report["times"] or report["ratios"] or report["skipped"] for report in written["reports"])
    assert name in capsys.readouterr().out


def test_floods_run_on_another_database(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    monkeypatch.setattr("benchmarks.floods.Supervisor", LoggedSupervisor)
    sizes = ["--tiny", "--repeats", "1", "--output", str(tmp_path)]
    assert main(["floods", *sizes, "--database-url", postgres_url]) == 0
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT state FROM rounds WHERE federation_id = 'floods' ORDER BY number").fetchall()
    assert found == [("completed",), ("collecting",)]


def test_steps_are_counted_on_the_stand_in_where_there_is_no_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", ON_A_STAND_IN, "--tiny", "--output", str(tmp_path)]
    no_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=no_gpu)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    reports = json.loads(path.read_text(encoding="utf-8"))["reports"]
    assert [report["case"].split()[0].rstrip(",") for report in reports] == ["server", *ClientKind] * 2
    operators = [report["ratios"][0]["value"] for report in reports]
    for cast, exact in zip(operators[:4], operators[4:], strict=True):
        assert exact < cast <= 1.6 * exact, "casts are operators, and no more than so many"
    for report in reports:
        counts = {ratio["name"]: ratio for ratio in report["ratios"]}
        assert counts["syncs a step"]["value"] == 0
        assert counts["operators a step"]["value"] > 0
        assert counts["syncs a step"]["at_most"] is not None, "a CPU waits for nothing, and has no target"
