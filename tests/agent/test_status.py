"""`fedafd agent status` tells from the state directory alone where a site stands, and holds no secret."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.agent.compared import ComparedSite
from typer.testing import CliRunner, Result

from fedafd.agent.baseline import advance
from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.ledger import Ledger
from fedafd.agent.own_data import load_own_data, note_start
from fedafd.agent.state import StateDirectory
from fedafd.agent.status import status_of
from fedafd.agent.task_note import note_task, read_task_note
from fedafd.cli.main import app
from fedafd.domain.config import parse_agent_config
from fedafd.domain.errors import DataError


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["agent", "status", *map(str, arguments)], env={"COLUMNS": "80"})


def told(site: ComparedSite) -> str:
    result = ask("--config", site.file)
    assert result.exit_code == 0, result.exception
    return " ".join(result.output.split())


def test_a_site_before_its_first_round(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    text = told(site)
    for words in (
        "as text client clinic in federation f-1",
        "not running",
        "task none yet",
        "last delivered none",
        "your model none yet",
        "fedafd agent baseline",
    ):
        assert words in text
    assert "hidden" not in text


def test_a_site_after_rounds_shows_them_with_their_errors(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)
    Ledger(site.root).record("representations", sha256="a" * 64, size_bytes=12345, round_number=2)
    site.deliver(2)
    advance(site.config)
    note_task(site.root, reason="no open round")
    text = told(site)
    for words in (
        "to wait: no open round",
        "last delivered round 2, ",
        "representations (12,345 bytes)",
        "trained alone 2 rounds, of 2 that your model has trained",
        "acc1, percent, on your 24 test samples",
        "±",
    ):
        assert words in text, words
    values = json.loads(ask("--config", site.file, "--json").output)
    assert [each["round"] for each in values["rounds"]] == [1, 2]
    assert values["enrolled"] == {"federation": "f-1", "client": "clinic", "kind": "text"}
    assert values["model"] == str(site.root / "model")
    assert values["baseline"] == {"rounds": 2, "of": 2, "running": False}
    assert values["sent"][0]["bytes"] == 12345
    assert values["disk_bytes"]["state"] > 0
    difference = values["rounds"][1]["splits"]["test"]["differences"]["alone"]
    assert difference["num_samples"] == 24
    assert "hidden" not in json.dumps(values)


def test_what_left_in_another_federations_round_of_the_same_number_is_not_told(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    ledger = Ledger(site.root)
    for what, size, number in (
        ("representations", 111, 1),
        ("enrolment", 56, 0),  # in another federation
        ("representations", 222, 1),
        ("calls", 55, 0),  # the agent ended in the middle of the round
        ("metrics", 33, 1),
        ("calls", 77, 1),
        ("leave", 44, 2),
    ):
        ledger.record(what, sha256="a" * 64, size_bytes=size, round_number=number)
    site.deliver(1)
    assert "sent in it representations (222 bytes), metrics (33 bytes) your model" in told(site)


def test_after_a_reset_the_model_is_told_as_one_of_before(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)
    site.deliver(2)
    assert "of before" not in told(site)
    result = CliRunner().invoke(app, ["agent", "reset", "--config", str(site.file)])
    assert result.exit_code == 0, result.exception
    text = told(site)
    assert "last delivered none" in text
    assert f"{site.root / 'model'},ofround2ofbefore" in text.replace(" ", "")
    assert status_of(site.root).model_round == 2


def test_every_command_of_a_site_finds_its_folder_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = ComparedSite(tmp_path)
    Ledger(site.root).record("representations", sha256="a" * 64, size_bytes=12345, round_number=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ways: list[tuple[list[str], dict[str, str]]] = [
        (["--config", str(site.file)], {}),
        ([], {"FEDAFD_AGENT_CONFIG": str(site.file)}),
        ([], {"FEDAFD_AGENT_STATE_DIR": str(site.root)}),
        (["--state-dir", str(site.root)], {}),
    ]
    for options, variables in ways:
        for command, words in (("sent", "12,345"), ("status", "clinic"), ("export", "has no model yet")):
            given = ["agent", command, *options, *(["copy"] if command == "export" else [])]
            result = CliRunner().invoke(app, given, env=variables)
            assert words in result.output + str(result.exception), (command, options, variables)


def test_who_is_at_work_and_what_waits_is_told(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.state.lock()
    try:
        with BaselineFolder(site.root).locked():
            status = status_of(site.root)
            assert status.running
            assert status.baseline_running
        note_task(site.root, round_number=7)
        assert "to take part in round 7 (told" in told(site)
        note_task(site.root, round_number=7, deadline=datetime(2026, 3, 1, 14, 30, tzinfo=UTC))
        assert "to take part in round 7, which waits until 2026-03-01T14:30:00+00:00 (told" in told(site)
        result = site.train(7)
        site.state.save_pending(
            round_id="r7",
            round_number=7,
            task_key="k",
            metrics={},
            num_private_samples=1,
            state=result.state,
            blobs={},
        )
        assert "round 7 is trained and waits for its receipt" in told(site)
    finally:
        site.state.unlock()
    assert not status_of(site.root).running


def test_data_that_changed_before_the_last_start_are_told(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    for options in ({"num_train": 40, "seed": 2}, {"num_train": 44, "seed": 2}):
        values = site.values | {"data": {"adapter": "shapes", "options": options | {"num_val": 8, "num_test": 8}}}
        note_start(site.root, load_own_data(parse_agent_config(values), site.root).fingerprint)
    assert "changed before the agent's last start:" in told(site)
    assert status_of(site.root).data_changes["train"][0] >= 4
    note_start(site.root, load_own_data(parse_agent_config(values), site.root).fingerprint)
    assert status_of(site.root).data_changes == {}


def test_a_folder_of_nobody_is_named(tmp_path: Path) -> None:
    result = ask("--state-dir", tmp_path / "nowhere")
    assert isinstance(result.exception, DataError)
    assert "no agent has kept anything here" in str(result.exception)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"at": 3, "what": 4}'])
def test_a_damaged_note_of_the_task_is_none(tmp_path: Path, content: str) -> None:
    StateDirectory(tmp_path)
    (tmp_path / "task.json").write_text(content, encoding="utf-8")
    assert read_task_note(tmp_path) is None
    assert status_of(tmp_path).task is None
