"""The version is told by the command and by the package, and it is that of pyproject.toml."""

from __future__ import annotations

import tomllib

from tests.servers import ROOT
from typer.testing import CliRunner

import fedafd
from fedafd.cli.main import app


def test_command_and_package_tell_the_same_version() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    told = CliRunner().invoke(app, ["--version"])
    assert (told.exit_code, told.stdout) == (0, f"fedafd {declared}\n")
    assert fedafd.__version__ == declared
