"""What the region's process and command say where something is wrong before it begins."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedafd.agent.exit_codes import ExitCode
from fedafd.agent.ledger import Ledger
from fedafd.agent.state import CREDENTIAL_FILE, StateDirectory
from fedafd.cli.main import app
from fedafd.domain.config import parse_federation_config
from fedafd.domain.config.region import config_of_region
from fedafd.persistence import clock
from fedafd.persistence.migrate import migrate
from fedafd.region.main import start_region
from fedafd.region.runner import Region


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDAFD_REGION_DATABASE_URL", f"sqlite:///{tmp_path}/f.db")
    monkeypatch.setenv("FEDAFD_REGION_STORE__URL", str(tmp_path / "store"))
    path = tmp_path / "region.yaml"
    path.write_text(yaml.safe_dump({"aggregator": "127.0.0.1:1", "federation": "north", "state_dir": "state"}))
    return path


def test_a_missing_setting_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDAFD_REGION_STORE__URL")
    assert start_region(file) == ExitCode.CONFIGURATION
    assert "FEDAFD_REGION_STORE__URL: must be set" in capsys.readouterr().err


def test_a_wrong_key_of_region_yaml_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text() + "deadline_share: 2\nfedration: x\n")
    assert start_region(file) == ExitCode.CONFIGURATION
    told = capsys.readouterr().err
    assert "deadline_share" in told
    assert "fedration: unknown key" in told


def test_a_region_that_is_not_enrolled_asks_for_its_token(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    migrate(f"sqlite:///{file.parent}/f.db")
    assert start_region(file) == ExitCode.CONFIGURATION
    assert "give the invitation's token with --token or FEDAFD_REGION_ENROLMENT_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, ""], ids=["gone", "empty"])
def test_an_enrolled_region_does_without_the_file_of_its_token(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    migrate(f"sqlite:///{file.parent}/f.db")
    token = file.parent / "token"
    monkeypatch.setenv("FEDAFD_REGION_ENROLMENT_TOKEN_FILE", str(token))
    if content is not None:
        token.write_text(content)
    given: list[str | None] = []

    async def noted(_: Region, token: str | None) -> None:
        given.append(token)

    monkeypatch.setattr(Region, "run", noted)
    assert start_region(file) == ExitCode.CONFIGURATION
    assert f"FEDAFD_REGION_ENROLMENT_TOKEN_FILE {token}" in capsys.readouterr().err
    (file.parent / "state").mkdir(exist_ok=True)
    (file.parent / "state" / CREDENTIAL_FILE).write_text("{}")
    assert start_region(file) == ExitCode.STOPPED
    token.write_text("fedafd-enrol.another")
    assert start_region(file) == ExitCode.STOPPED
    assert given == [None, "fedafd-enrol.another"]


def test_a_region_goes_by_the_databases_clock_from_its_start(
    file: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(postgres_url)
    monkeypatch.setenv("FEDAFD_REGION_DATABASE_URL", postgres_url)
    monkeypatch.setattr(clock, "_wall", lambda: datetime.now(UTC) + timedelta(hours=3))
    (file.parent / "state").mkdir()
    (file.parent / "state" / CREDENTIAL_FILE).write_text("{}")
    off: list[timedelta] = []

    async def noted(_: Region, __: str | None) -> None:
        off.append(clock.utc_now() - datetime.now(UTC))

    monkeypatch.setattr(Region, "run", noted)
    try:
        assert start_region(file) == ExitCode.STOPPED
    finally:
        clock.shared_clock.forget()
    assert abs(off[0]) < timedelta(seconds=5)


def test_a_full_disk_has_a_code_of_its_own(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    migrate(f"sqlite:///{file.parent}/f.db")

    async def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.parent / "state"))

    monkeypatch.setattr(Region, "run", full)
    assert start_region(file) == ExitCode.DISK_FULL
    assert f"{file.parent}/state: the disk is full" in capsys.readouterr().err


def test_a_second_region_on_a_state_folder_has_a_code_of_its_own(file: Path) -> None:
    first = StateDirectory(file.parent / "state")
    first.lock()
    try:
        assert start_region(file) == ExitCode.SECOND_AGENT
    finally:
        first.unlock()


def test_the_command_tells_what_was_sent_up(file: Path) -> None:
    (file.parent / "state").mkdir()
    Ledger(file.parent / "state").record("merged-states", sha256="a" * 64, size_bytes=1234, round_number=7)
    told = CliRunner().invoke(app, ["region", "sent", "-f", str(file)])
    assert told.exit_code == 0, told.output
    assert "merged-states" in told.output
    assert "1,234" in told.output


def test_a_regions_round_follows_the_method_from_above_and_deals_with_its_sites_as_its_own_federation_says() -> None:
    upper = parse_federation_config({"name": "upper", "seed": 7, "strategy": "creamfl", "quorum": {"min_clients": 90}})
    own = parse_federation_config(
        {"name": "north", "seed": 1, "quorum": {"min_clients": 2}, "accept_personalized_models": False}
    )
    made = config_of_region(upper, own, 60.0)
    assert (made.name, made.quorum, made.round_deadline_seconds) == ("north", own.quorum, 60.0)
    assert not made.accept_personalized_models
    assert (made.seed, made.strategy, made.distillation) == (7, "creamfl", upper.distillation)
