"""What goes to a pipe or a file is whole, however narrow the terminal is that the command was typed in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.agent.compared import ComparedSite
from tests.servers import ROOT
from tests.simulation.test_compare import keep
from typer.testing import CliRunner

from fedafd.cli.console import console_for
from fedafd.cli.demo_report import ClientResult, DemoResult, print_report
from fedafd.cli.main import app
from fedafd.cli.remote.output import print_fields, print_table
from fedafd.cli.round_view import RoundView


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


MARKUP = [
    "\\[/]",
    "[/]",
    "\\[link=https://evil.example]here",
    "[link=https://evil.example]here",
    ":warning:",
    "north\\",
]
"""What rich makes of a text if it is let: an error, a link, another sign. The first is what a `[` becomes by `\\[`."""


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_what_others_wrote_is_text(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator's reason, a name from an identity provider or a caption must not keep a log from being read."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal, where links are drawn
    console_for().print(text)
    print_table([text], [(text,)], "none")
    print_fields({text: text})
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "\x1b" not in printed
    assert printed.count(text) == 5


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_round_is_text(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("FORCE_COLOR", "1")
    part = {"client": text, "state": text, "progress": None, "reason": text, "activity": text}
    answer: Any = {
        "number": 1,
        "state": text,
        "metrics": None,
        "started_at": None,
        "finished_at": None,
        "stages": [],
        "participations": [part, part | {"state": "training"}],
    }
    view = RoundView(console_for(), [1])
    with view.shown():
        view.update(answer)
        view.finished(answer)
    printed = capsys.readouterr().out
    assert text in printed
    assert "\x1b]8" not in printed


def test_no_command_gives_the_console_markup_to_read() -> None:
    """It is text to the console, so a tag in it would be seen; and one that is read may be anybody's."""
    folder = ROOT / "services" / "fedafd"
    found = [
        f"{path.name}: {line.strip()}"
        for path in (*(folder / "cli").rglob("*.py"), *(folder / "agent").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\[/\]|markup=True|from_markup", line)
    ]
    # Bars read their descriptions so; what others wrote is escaped in them, and a command's help is our own.
    assert found == [
        'main.py: """Multimodal federated learning without sharing data. Try [bold]fedafd demo[/], then'
        ' [bold]fedafd up[/]."""',
        'simulate_view.py: self._whole = self._bars.add_task(f"[bold]{escape(experiment.name)}[/]",'
        ' total=len(self._runs), words="")',
    ]
