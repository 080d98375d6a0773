"""`fedafd agent run` and the agent's process by itself take the same options, and say the same of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedafd.agent import main as agent_main
from fedafd.agent.state import CREDENTIAL_FILE
from fedafd.cli.main import main as fedafd


def options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", text)) - {"--help"}


def test_both_have_the_same_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    said = []
    for program, words in ((fedafd, ["fedafd", "agent", "run"]), (agent_main.main, ["agent"])):
        monkeypatch.setattr("sys.argv", [*words, "--help"])
        with pytest.raises(SystemExit) as ended:
            program()
        assert ended.value.code == 0
        said.append(capsys.readouterr().out)
    assert options(said[0]) == options(said[1]) == {"--config", "--token", "--token-file", "--state-dir"}
    assert all("Run this site's agent until it is stopped." in text for text in said)


def test_a_token_that_looks_like_an_option_arrives_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def noted(path: Path, *, token: str | None, token_file: Path | None, state_dir: Path | None) -> int:
        given.update(path=path, token=token, token_file=token_file, state_dir=state_dir)
        return 3

    monkeypatch.setattr(agent_main, "start_agent", noted)
    monkeypatch.setattr("sys.argv", ["fedafd", "agent", "run", "--token=--x", "--state-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        fedafd()
    assert ended.value.code == 3
    assert given == {"path": Path("agent.yaml"), "token": "--x", "token_file": None, "state_dir": tmp_path}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": "a", "token_file": Path("token")}, "give --token or --token-file, not both"),
        ({"token_file": Path("no-such-file")}, "--token-file"),
    ],
)
def test_a_token_that_cannot_be_had_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_text("{aggregator: '127.0.0.1:1', kind: text, data: {adapter: shapes}}")
    assert agent_main.start_agent(Path("agent.yaml"), **options) == agent_main.ExitCode.CONFIGURATION
    captured = capsys.readouterr()
    assert words in captured.out + captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["agent.yaml"]


@pytest.mark.parametrize("way", ["--token-file", "variable"])
@pytest.mark.parametrize("content", [None, ""], ids=["gone", "empty"])
def test_an_enrolled_agent_does_without_the_file_of_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, content: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_text("{aggregator: '127.0.0.1:1', kind: text, data: {adapter: shapes}}")
    if content is not None:
        (tmp_path / "token").write_text(content)
    if way == "variable":
        monkeypatch.setenv("FEDAFD_AGENT_ENROLMENT_TOKEN_FILE", "token")
    given: list[str | None] = []

    def noted(_: object, *, token: str | None, **__: object) -> int:
        given.append(token)
        return 0

    monkeypatch.setattr(agent_main, "run", noted)

    def start() -> int:
        options: dict[str, Any] = {"token_file": Path("token")} if way == "--token-file" else {}
        return agent_main.start_agent(Path("agent.yaml"), state_dir=tmp_path / "state", **options)

    assert start() == agent_main.ExitCode.CONFIGURATION
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / CREDENTIAL_FILE).write_text("{}")
    assert start() == 0
    (tmp_path / "token").write_text("fedafd-enrol.another")
    assert start() == 0
    assert given == [None, "fedafd-enrol.another"]
