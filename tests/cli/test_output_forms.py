"""Each command that tells something tells it to a script, too: --output table|json|yaml, and -h explains each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests.agent.compared import ComparedSite
from tests.cli.test_base_install import every_command
from tests.simulation.test_compare import keep
from typer.testing import CliRunner

from fedafd.agent.approval import Proposal, read_proposal, write_proposal
from fedafd.agent.ledger import Ledger
from fedafd.cli.main import app
from fedafd.cli.output_format import OutputFormat, print_answer, print_entry
from fedafd.domain.plain_text import OBEYED
from fedafd.persistence.migrate import migrate

DO = {
    "agent export": "makes a folder",
    "agent headers": "prints headers for another program",
    "agent init": "asks, and writes agent.yaml",
    "agent reset": "moves a folder",
    "agent run": "runs",
    "agent ui": "runs",
    "aggregator": "runs",
    "audit export": "writes a file of JSON lines",
    "bootstrap": "does, and safe to repeat",
    "control-plane": "runs",
    "demo": "runs, and writes results.json; --json prints it",
    "distiller": "runs",
    "federation export": "prints a file",
    "health": "its exit code is the answer",
    "predict": "its --output is a file; --json is one object a line",
    "profile remove": "changes a file",
    "profile set": "changes a file",
    "queries": "runs",
    "region run": "runs",
    "search": "its --output is a file; --json is one object a line",
    "store provision": "does, and safe to repeat",
    "up": "runs",
}
"""Commands that do something, and have nothing to tell that a script would read."""


def test_a_command_that_tells_something_tells_it_as_json_and_yaml() -> None:
    assert {name for name in every_command() if not _tells(name)} == set(DO)


def test_each_command_explains_itself_after_h() -> None:
    words = sorted({" ".join(name.split()[:length]) for name in every_command() for length in (0, 1, 2)})
    for name in words:
        told = CliRunner().invoke(app, [*name.split(), "-h"])
        assert (told.exit_code, "Usage:" in told.output) == (0, True), name


def test_what_a_site_tells_is_data_in_both_forms(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)
    Ledger(site.root).record("representations", sha256="a" * 64, size_bytes=123, round_number=1)
    given = ("--config", str(site.file))
    (sent,) = _both("agent", "sent", *given)
    assert (sent["what"], sent["bytes"], sent["round"]) == ("representations", 123, 1)
    assert _both("agent", "status", *given)["rounds"][0]["round"] == 1
    explained = _both("agent", "explain", *given)
    assert "share.weights" in {each["by"] for each in explained["held_back"]}
    assert any(each["holds"] for each in explained["leaves"])
    assert len(_both("agent", "explain", "--fields", *given)["leaves"]) > len(explained["leaves"])


def test_as_data_an_approval_asks_nothing_and_needs_a_yes(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    assert _both("agent", "approve", "--config", str(site.file)) == {"waits": None, "id": None, "approved": False}
    waiting = Proposal(at="2026-01-01", round_number=2, configuration=None, public_set_sha256="b" * 64)
    write_proposal(site.root, waiting)
    found = _both("agent", "approve", "--config", str(site.file))
    assert (found["waits"]["public_set_sha256"], found["approved"]) == ("b" * 64, False)
    assert read_proposal(site.root) is not None
    done = CliRunner().invoke(app, ["agent", "approve", "--config", str(site.file), "--yes", "--json"])
    assert json.loads(done.stdout)["approved"] is True
    assert read_proposal(site.root) is None


def test_two_simulations_are_compared_for_a_script(tmp_path: Path) -> None:
    for folder, gain in (("first", 0.0), ("second", 2.0)):
        keep(tmp_path / folder, "fedafd", 0, 20.0 + gain)
    found = _both("simulate", "compare", str(tmp_path / "first"), str(tmp_path / "second"))
    image = next(each for each in found["differences"] if each["measure"] == "image acc1")
    assert (image["mean"], image["low"]) == (2.0, None)


def test_the_store_and_the_schema_are_told_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/fedafd.db"
    migrate(url)
    monkeypatch.setenv("FEDAFD_DATABASE_URL", url)
    monkeypatch.setenv("FEDAFD_AGGREGATOR_DATABASE_URL", url)
    monkeypatch.setenv("FEDAFD_AGGREGATOR_STORE__URL", str(tmp_path / "store"))
    foreign = tmp_path / "store" / "federations" / "unknown" / "rounds" / "r" / "object"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"1234")
    found = _both("migrate", "current")
    assert found["current"] == found["head"]
    assert _both("store", "verify") == {"objects": 0, "problems": []}
    (kind,) = _both("store", "prune")
    assert (kind["kind"], kind["objects"], kind["size_bytes"], kind["removed"]) == ("foreign", 1, 4, False)


@pytest.mark.parametrize("form", [OutputFormat.JSON, OutputFormat.YAML])
def test_what_is_no_number_is_null(form: OutputFormat, capsys: pytest.CaptureFixture[str]) -> None:
    print_answer({"loss": float("nan"), "low": float("-inf"), "place": Path("a")}, form)
    assert yaml.safe_load(capsys.readouterr().out) == {"loss": None, "low": None, "place": "a"}


def _both(*arguments: str) -> Any:
    """What a command tells, the same as JSON and as YAML."""
    told = {}
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        done = CliRunner().invoke(app, [*arguments, "--output", form])
        assert done.exit_code == 0, (done.output, done.exception)
        told[form] = read(done.stdout)
    assert told["json"] == told["yaml"]
    return told["json"]


def _tells(name: str) -> bool:
    at: Any = typer.main.get_command(app)
    for word in name.split():
        at = at.commands[word]
    return any("--output" in each.opts and isinstance(each.default, OutputFormat) for each in at.params)


@pytest.mark.parametrize("form", [OutputFormat.JSON, OutputFormat.YAML])
def test_marks_that_turn_the_direction_of_writing_are_escaped(
    form: OutputFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = {"name": "\u202enorth", "reason": "\u2066a\u2069 \x9b31m \x1b[2J \u200e\u061c", "caption": "ein Hündchen"}
    for show in (print_answer, print_entry):
        show(turned, form)
        printed = capsys.readouterr().out
        assert not [line for line in printed.split("\n") if OBEYED.search(line)], ascii(printed)
        assert yaml.safe_load(printed) == turned  # JSON is YAML, too
    print_answer({"caption": turned["caption"]}, OutputFormat.YAML)
    assert capsys.readouterr().out == "caption: ein Hündchen\n"
