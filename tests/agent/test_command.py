"""`fedafd agent run` and the agent's process by itself take the same options, and say the same of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedafd.agent import main as agent_main
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
    assert options(said[0]) == options(said[1]) == {"--config", "--token", "--state-dir"}
    assert all("Run this site's agent until it is stopped." in text for text in said)


def test_a_token_that_looks_like_an_option_arrives_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def noted(path: Path, *, token: str | None, state_dir: Path | None) -> int:
        given.update(path=path, token=token, state_dir=state_dir)
        return 3

    monkeypatch.setattr(agent_main, "start_agent", noted)
    monkeypatch.setattr("sys.argv", ["fedafd", "agent", "run", "--token=--x", "--state-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        fedafd()
    assert ended.value.code == 3
    assert given == {"path": Path("agent.yaml"), "token": "--x", "state_dir": tmp_path}
