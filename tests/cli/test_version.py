"""The version is told by the command, the package and CITATION.cff, and it is that of pyproject.toml."""

from __future__ import annotations

import tomllib

import yaml
from tests.servers import ROOT
from typer.testing import CliRunner

import fedafd
from fedafd.cli.main import app


def test_command_and_package_tell_the_same_version() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    told = CliRunner().invoke(app, ["--version"])
    assert (told.exit_code, told.stdout) == (0, f"fedafd {declared}\n")
    assert fedafd.__version__ == declared


def test_the_citation_is_of_this_version_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["preferred-citation"]["url"] == project["urls"]["Paper"]
