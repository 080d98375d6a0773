"""Each benchmark runs at tiny sizes, so that none rots. No figure is looked at here."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from benchmarks.__main__ import NAMES, main
from tests.end_to_end.supervised import LoggedSupervisor


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_runs_and_writes_its_figures(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = import_module(f"benchmarks.{name}")
    monkeypatch.setattr("fedafd.local.supervisor.Supervisor", LoggedSupervisor)  # what it starts is forked
    if hasattr(benchmark, "Supervisor"):
        monkeypatch.setattr(benchmark, "Supervisor", LoggedSupervisor)
    # The stand-in for a GPU would stay in this process: tests/learning/test_device.py has it in one of its own.
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
