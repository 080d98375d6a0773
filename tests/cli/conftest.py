"""Fixtures of the tests that run commands against a real control plane."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.in_process import run_fedafd
from tests.cli.remote import KEY, ControlPlane, Run


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    server = ControlPlane(tmp_path_factory.mktemp("remote"))
    yield server
    server.stop()


@pytest.fixture
def environment(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("FEDAFD_CONFIG", os.devnull)
    monkeypatch.setenv("FEDAFD_API_KEY_FILE", "")  # what a profile sets is undone with it
    given = {"FEDAFD_URL": control_plane.url, "FEDAFD_API_KEY": KEY, "FEDAFD_FEDERATION": "trial"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


@pytest.fixture
def run(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        return run_fedafd(monkeypatch, capsys, *arguments)

    return call


@pytest.fixture
def federation(run: Run, tmp_path: Path) -> Path:
    """The file of a federation that is there."""
    path = tmp_path / "federation.yaml"
    path.write_text("name: trial\npreset: small\n")
    run("federation", "create", "-f", str(path))
    return path
