"""`fedafd agent ui` starts where it can, and says in one line where it cannot."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedafd.cli import agent_ui
from fedafd.cli.main import app
from fedafd.domain.errors import ConfigurationError


def ask(folder: Path, *arguments: str) -> Result:
    config = folder / "agent.yaml"
    config.write_text("aggregator: a:1\nkind: text\ndata: {adapter: shapes}\n", encoding="utf-8")
    return CliRunner().invoke(app, ["agent", "ui", "--config", str(config), *arguments])


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_ui, "find_spec", lambda name: None if name == "jinja2" else object())
    error = ask(tmp_path).exception
    assert isinstance(error, ConfigurationError)
    assert str(error) == "fedafd agent ui needs jinja2: pip install 'fedafd[ui]'"


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        error = ask(tmp_path, "--port", port).exception
    assert isinstance(error, ConfigurationError)
    assert port in str(error) and "--port" in str(error)


def test_an_address_of_the_network_is_refused(tmp_path: Path) -> None:
    error = ask(tmp_path, "--host", "0.0.0.0").exception
    assert isinstance(error, ConfigurationError)
    assert "this machine alone" in str(error)
