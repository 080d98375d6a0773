"""How an agent ends, told apart by what a supervisor can do about it; and docs/site.md lists each."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers import ROOT

from fedafd.agent import start
from fedafd.agent.exit_codes import ExitCode, exit_code_of
from fedafd.agent.main import run
from fedafd.agent.state import StateDirectory
from fedafd.domain.config import AgentConfig, parse_agent_config
from fedafd.domain.errors import (
    ConfigurationError,
    DataError,
    FedafdError,
    ForbiddenError,
    IdentityInUseError,
    StateUnusableError,
    StorageFullError,
)


def config(folder: Path) -> AgentConfig:
    data = {"adapter": "shapes", "options": {"num_train": 8, "num_val": 4, "num_test": 4}}
    values = {"aggregator": "127.0.0.1:1", "kind": "image", "data": data, "state_dir": str(folder)}
    return parse_agent_config(values)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError, ExitCode.CONFIGURATION),
        (StateUnusableError, ExitCode.CONFIGURATION),
        (ForbiddenError, ExitCode.REFUSED),
        (DataError, ExitCode.DATA),
        (StorageFullError, ExitCode.DISK_FULL),
        (IdentityInUseError, ExitCode.SECOND_AGENT),
    ],
)
def test_an_error_ends_an_agent_with_the_code_of_its_kind(error: type[FedafdError], code: ExitCode) -> None:
    assert exit_code_of(error("any")) is code


def test_a_second_agent_on_a_state_folder_has_a_code_of_its_own(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path / "state")
    first.lock()
    try:
        assert run(config(tmp_path / "state")) is ExitCode.SECOND_AGENT
    finally:
        first.unlock()


def test_a_full_disk_has_a_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr(start, "prepare", full)
    assert run(config(tmp_path / "state")) is ExitCode.DISK_FULL


def test_every_code_is_in_the_site_guide() -> None:
    listed = re.findall(r"^\| exit code (\d)", (ROOT / "docs" / "site.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(map(int, listed)) == sorted(ExitCode)


@pytest.mark.parametrize("command", [["run"], ["check", "--offline"], ["export", "copy"], ["reset"]])
def test_commands_of_a_site_read_the_file_that_the_variable_names(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "other.yaml").write_text("nonsense: true\n")
    environment = os.environ | {"FEDAFD_AGENT_CONFIG": "~/other.yaml", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "fedafd.cli.main", "agent", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.CONFIGURATION
    assert f"{tmp_path}/other.yaml: " in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
