"""What goes to a pipe or a file is whole, however narrow the terminal is that the command was typed in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.agent.compared import ComparedSite
from tests.servers import ROOT
from tests.simulation.test_compare import keep
from typer.testing import CliRunner

from fedafd.cli.console import console_for
from fedafd.cli.demo_report import ClientResult, DemoResult, print_report
from fedafd.cli.main import app
from fedafd.cli.remote.output import print_fields, print_table


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")


def test_a_row_of_a_table_is_a_line_with_all_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "the store cannot be reached " * 20
    print_table(["CLIENT", "REASON", "STATE"], [("north", reason, "dropped"), ("south", None, "delivered")], "none")
    print_fields({"reason": reason, "state": "dropped"})
    header, north, south, *fields = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", header.strip()) == ["CLIENT", "REASON", "STATE"]
    assert re.split(r"\s{2,}", north.strip()) == ["north", reason.strip(), "dropped"]
    assert re.split(r"\s{2,}", south.strip()) == ["south", "-", "delivered"]
    assert [line.split(maxsplit=1)[1].strip() for line in fields] == [reason.strip(), "dropped"]


def test_a_comparison_is_markdown_with_whole_tables(tmp_path: Path) -> None:
    strategy = "fedafd-with-a-name-that-is-longer-than-any-column"
    keep(tmp_path / "first", strategy, 0, 20.0)
    keep(tmp_path / "second", strategy, 0, 23.0)
    told = CliRunner().invoke(app, ["simulate", "compare", str(tmp_path / "first"), str(tmp_path / "second")])
    assert told.exit_code == 0, told.output
    assert f"### {strategy}, iid, 1 seed\n" in told.output
    assert "| image acc1 | 20.0 | 23.0 | +3.0 (one seed) |  |\n" in told.output


def test_a_sites_status_and_the_demos_report_are_not_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)
    told = CliRunner().invoke(app, ["agent", "status", "--config", str(site.file)])
    assert told.exit_code == 0, told.output
    name = "a-client-with-a-name-of-more-than-forty-letters"
    details = {"name": name, "kind": "image", "metric": "acc1", "alone": 80.0, "federated": 90.0, "details": {}}
    client = ClientResult(**details, standard_error=1.5, bytes_up=1, bytes_down=1)  # type: ignore[arg-type]
    report = DemoResult(seed=0, rounds=[], clients=[client], seconds=1.0, seconds_total=1.0, data="")
    print_report(console_for(), report)
    printed = capsys.readouterr().out
    assert re.search(rf"{name}.*image.*acc1.*80\.0.*90\.0.*\+10\.0 ± 1\.5", printed)
    assert "…" not in told.output + printed
    assert max(map(len, told.output.splitlines())) > 40
    assert max(map(len, printed.splitlines())) < 400, "nothing is as wide as the console"


def test_each_command_prints_by_the_console_that_knows_of_pipes() -> None:
    folder = ROOT / "services" / "fedafd" / "cli"
    makers = [path.name for path in folder.rglob("*.py") if re.search(r"Console\((?!\))", path.read_text())]
    assert makers == ["console.py"]
    assert not [path for path in folder.rglob("*.py") if path.name != "console.py" and "Console()" in path.read_text()]
