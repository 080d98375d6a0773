"""`fedafd bootstrap` against a real control plane: first run, repeated run, after a token got lost, after enrolment."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tests.datasets import makers
from tests.servers import child, free_port, wait_until
from typer.testing import CliRunner

from fedafd.cli.bootstrap import RoundPlan, parse_invitation, plan_rounds
from fedafd.cli.main import app
from fedafd.cli.own_sites import parse_site
from fedafd.client.federation import FederationClient
from fedafd.client.http import make_client
from fedafd.domain.config import read_agent_config
from fedafd.domain.errors import ConfigurationError, FedafdError
from fedafd.domain.kinds import ClientKind, ParticipantKind
from fedafd.persistence.client_repository import enrol_client
from fedafd.persistence.database import Database
from fedafd.persistence.migrate import migrate

KEY = "fedafd-key.bootstrap-test"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    migrate(_database(tmp_path))
    settings = {"DATABASE_URL": _database(tmp_path), "STORE__URL": str(tmp_path / "store"), "ADMIN_KEY": KEY}
    environment = {f"FEDAFD_CONTROL_PLANE_{key}": value for key, value in settings.items()}
    command = [sys.executable, "-m", "fedafd.control_plane.app"]
    with child(command, tmp_path / "control-plane.log", FEDAFD_CONTROL_PLANE_PORT=str(port), **environment):
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: _ready(address), "the control plane", seconds=90)
        yield address


def _database(folder: Path) -> str:
    return f"sqlite:///{folder}/fedafd.db"


def _ready(url: str) -> bool:
    try:
        with make_client(url, timeout=5) as client:
            return client.get(f"{url}/readyz").is_success
    except httpx.HTTPError:
        return False


def _run(folder: Path, url: str, *more: str) -> str:
    (folder / "federation.yaml").write_text("name: trial\npreset: small\n")
    (folder / "key").write_text(f"{KEY}\n")
    arguments = ["bootstrap", "-f", str(folder / "federation.yaml"), "--api-key-file", str(folder / "key")]
    arguments += ["--options", '{"num_train": 8, "num_val": 4, "num_test": 4}', "--url", url]
    for name in ("images", "texts"):
        arguments += ["--client", f"{name}:{name.removesuffix('s')}:{folder}/{name}/token"]
    done = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=True)
    if done.exception is not None:
        raise done.exception
    return done.output


def test_it_makes_what_is_missing_and_leaves_what_is_there(url: str, tmp_path: Path) -> None:
    assert "federation trial: created" in _run(tmp_path, url)
    tokens = {name: tmp_path / name / "token" for name in ("images", "texts")}
    assert all(path.stat().st_mode & 0o777 == 0o400 for path in tokens.values())
    used = tokens["images"].read_text().strip()
    asyncio.run(_enrol(_database(tmp_path), used))
    tokens["texts"].unlink()

    again = _run(tmp_path, url)
    assert "federation trial: is there" in again
    assert "public set: is there" in again
    assert "client images: is enrolled" in again
    assert tokens["images"].read_text().strip() == used
    assert tokens["texts"].read_text().startswith("fedafd-enrol.")
    headers = {"Authorization": f"Bearer {KEY}"}
    clients = httpx.get(f"{url}/v1/federations/trial/clients", headers=headers).json()["items"]
    assert {each["name"]: each["state"] for each in clients} == {"images": "enrolled", "texts": "invited"}


def test_a_site_of_this_machine_gets_all_that_its_agent_starts_from(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    makers.image_folder(tmp_path / "scans", splits=True)
    (tmp_path / "key").write_text(KEY)
    arguments = ["bootstrap", "--name", "trial", "--api-key-file", "key", "--url", url, "--options", '{"num_train": 8}']
    arguments += ["--site", "north:pair", "--site", "south:image:scans", "--client", "west:text:west.token"]
    missing = CliRunner().invoke(app, arguments)
    assert "--aggregator host:port" in str(missing.exception)
    assert not (tmp_path / "north").exists()
    done = CliRunner().invoke(app, [*arguments, "--aggregator", "127.0.0.1:7001"])
    assert done.exit_code == 0, done.output
    north, south = (read_agent_config(tmp_path / name / "agent.yaml") for name in ("north", "south"))
    assert (north.aggregator, north.kind, north.data.adapter) == ("127.0.0.1:7001", ClientKind.PAIR, "shapes")
    assert (south.data.adapter, south.data.path) == ("image-folder", tmp_path / "scans")
    assert north.state_dir == tmp_path / "north" / "state"
    assert (tmp_path / "north" / "token").read_text().startswith("fedafd-enrol.")
    assert done.stderr.splitlines() == [
        "Next:",
        "  fedafd agent run --config north/agent.yaml --token-file north/token",
        "  fedafd agent run --config south/agent.yaml --token-file south/token",
        "  at west, with west.token: fedafd agent init, then fedafd agent run --token-file",
        "  fedafd round start -F trial --watch",
    ]
    (tmp_path / "north" / "agent.yaml").write_text("mine")
    assert "north/agent.yaml is there" in CliRunner().invoke(app, [*arguments, "--aggregator", "127.0.0.1:7001"]).output
    assert (tmp_path / "north" / "agent.yaml").read_text() == "mine"


def test_data_that_do_not_load_are_told_before_anything_is_made(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text(KEY)
    arguments = ["bootstrap", "--name", "trial", "--api-key-file", "key", "--url", url, "--aggregator", "127.0.0.1:1"]
    failed = CliRunner().invoke(app, [*arguments, "--site", "north:image:nowhere"])
    assert "nowhere: no such folder" in str(failed.exception)
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{url}/v1/federations", headers=headers).json()["items"] == []


def test_the_same_command_again_starts_only_the_rounds_that_are_missing(url: str, tmp_path: Path) -> None:
    _run(tmp_path, url)
    asyncio.run(_enrol(_database(tmp_path), (tmp_path / "images" / "token").read_text().strip()))
    with closing(FederationClient(url, KEY, "trial")) as federation:
        federation.start_rounds(4)
        with closing(sqlite3.connect(tmp_path / "fedafd.db")) as database, database:
            for number, state in ((1, "failed"), (2, "completed"), (3, "completed")):
                database.execute("UPDATE rounds SET state = ? WHERE number = ?", (state, number))
        for wanted in (1, 2):
            said = f"rounds: already complete, 2 of {wanted}; `fedafd round start -F trial` starts another\n"
            assert said in _run(tmp_path, url, "--rounds", str(wanted))
        assert len(federation.rounds()) == 4
        going_on = ["rounds: 2 of 3 already complete", "round 4: is queued"]
        assert plan_rounds(federation, 3) == RoundPlan([4], 0, going_on)
        assert plan_rounds(federation, 5).missing == 2
        assert plan_rounds(federation, 0) == RoundPlan([], 0, [])


async def _enrol(database_url: str, token: str) -> None:
    database = Database(database_url)
    async with database.transaction() as session:
        await enrol_client(session, token, ParticipantKind.IMAGE, "test")
    await database.close()


def test_a_control_plane_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedafdError, match=r"127\.0\.0\.1:1: cannot be reached"):
        _run(tmp_path, "http://127.0.0.1:1")


@pytest.mark.parametrize("text", ["north", "north:sound", ":image", "../north:image", "North:image:data"])
def test_a_wrong_site_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--site .*: write NAME:KIND, or NAME:KIND:DATA"):
        parse_site(text)


@pytest.mark.parametrize("names", [[], ["--name", "trial", "-f", "federation.yaml"]])
def test_either_a_file_or_a_name_says_which_federation(names: list[str]) -> None:
    assert "-f, or a --name" in str(CliRunner().invoke(app, ["bootstrap", *names]).exception)


@pytest.mark.parametrize("text", ["images", "images:sound:/x", "images:image:", ":image:/x"])
def test_a_wrong_invitation_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="NAME:KIND:FILE"):
        parse_invitation(text)
