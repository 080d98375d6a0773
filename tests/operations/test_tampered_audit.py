"""What somebody with the database's password does to the audit log, and what `fedafd audit verify` says of it.

On both databases, with two control planes that write at once. What nothing but an anchor shows is held here too, so
that docs/operator.md says what is so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from tests.cli.in_process import run_fedafd
from tests.cli.remote import KEY, ControlPlane
from tests.databases import own_database

from fedafd.domain.audit_chain import START, AuditEntry, entry_hash
from fedafd.persistence.database import Database, driver_url
from fedafd.persistence.event_repository import newest_events

WRITERS, EACH = 2, 12
"""Control planes, and the clients that are invited through each."""
COLUMNS = "id, at, federation_id, kind, actor, address, data, hash"


class Log:
    """The audit log of two control planes, their commands, and the hand that reaches past them."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.database_url = database_url
        self.servers: list[ControlPlane] = []
        self.engine: Engine = create_engine(driver_url(database_url, asynchronous=False))
        for number in range(WRITERS):
            (folder / str(number)).mkdir()
            self.servers.append(ControlPlane(folder / str(number), database_url))
        with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False) as http:
            made = http.post(f"{self.servers[0].url}/v1/federations", json={"name": "trial", "preset": "small"})
        assert made.is_success
        with ThreadPoolExecutor(8) as pool:
            jobs = [(self.servers[n % WRITERS], f"site-{n}") for n in range(WRITERS * EACH)]
            assert set(pool.map(lambda job: self.invite(*job), jobs)) == {201}
        self.do("CREATE TABLE saved AS SELECT * FROM events")

    def command_from(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        """Commands are run in this test."""
        self._capsys, self._patch = capsys, patch
        given = {"FEDAFD_URL": self.servers[0].url, "FEDAFD_API_KEY": KEY, "FEDAFD_FEDERATION": "trial"}
        for name, value in given.items():
            patch.setenv(name, value)

    def restore(self) -> None:
        """All entries as they were."""
        self.do("DELETE FROM events", f"INSERT INTO events ({COLUMNS}) SELECT {COLUMNS} FROM saved")

    def run(self, *arguments: str) -> tuple[int, str]:
        code, out, err = run_fedafd(self._patch, self._capsys, *arguments)
        return code, out or err

    def invite(self, server: ControlPlane, name: str) -> int:
        body = {"name": name, "kind": "image"}
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"{server.url}/v1/federations/trial/clients"
        return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False).status_code

    def misfit(self, *anchors: str) -> str | None:
        """What verify says is wrong."""
        options = [part for anchor in anchors for part in ("--anchor", anchor)]
        code, out = self.run("audit", "verify", "--json", *options)
        answer = json.loads(out)
        assert code == (0 if answer["intact"] else 1)
        found: str | None = answer["misfit"]
        return found

    def head(self) -> str:
        return str(json.loads(self.run("audit", "verify", "--json")[1])["anchor"])

    def do(self, *statements: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement), values)

    def ids(self) -> list[int]:
        with self.engine.begin() as connection:
            return list(connection.scalars(text("SELECT id FROM events ORDER BY id")))

    def rechain(self) -> None:
        """As somebody does who knows this program: each hash made anew."""
        with self.engine.begin() as connection:
            previous = START
            for row in _entries(connection):
                previous = entry_hash(previous, AuditEntry.of_json(row | {"hash": None}))
                connection.execute(
                    text("UPDATE events SET hash = :hash WHERE id = :id"), {"id": row["id"], "hash": previous}
                )


def _entries(connection: Connection) -> list[dict[str, Any]]:
    rows = connection.execute(text(f"SELECT {COLUMNS} FROM events ORDER BY id")).mappings().all()
    return [_entry(dict(row)) for row in rows]


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    at, data = row.pop("at"), row.pop("data")
    at = f"{at}+00:00" if isinstance(at, str) else at.isoformat()
    federation = row.pop("federation_id")
    return row | {"at": at, "federation": federation, "data": json.loads(data) if isinstance(data, str) else data}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept_log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    folder = tmp_path_factory.mktemp("audit")
    with ExitStack() as stack:
        url = f"sqlite:///{folder}/test.db"
        if request.param == "postgresql":
            url = stack.enter_context(own_database(request.getfixturevalue("postgres")))
        made = Log(folder, url)
        for server in made.servers:
            stack.callback(server.stop)
        stack.callback(made.engine.dispose)
        yield made


@pytest.fixture
def log(kept_log: Log, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    kept_log.command_from(capsys, monkeypatch)
    yield kept_log
    kept_log.restore()


Tampering = Callable[[Log], None]


def _field(name: str, value: str) -> Tampering:
    return lambda log: log.do(f"UPDATE events SET {name} = {value} WHERE id = {log.ids()[5]}")


def _swapped(log: Log) -> None:
    """The entries exchange their places, each with its own hash."""
    first, second = log.ids()[5:7]
    log.do(
        f"UPDATE events SET id = -1 WHERE id = {first}",
        f"UPDATE events SET id = {first} WHERE id = {second}",
        f"UPDATE events SET id = {second} WHERE id = -1",
    )


def _inserted(log: Log, number: int, source: int) -> None:
    copied = COLUMNS.partition(", ")[2]
    log.do(f"INSERT INTO events ({COLUMNS}) SELECT {number}, {copied} FROM events WHERE id = {source}")


def _inserted_between(log: Log) -> None:
    """An entry with its right hash, between two others."""
    ids = log.ids()
    for number in reversed(ids[6:]):
        log.do(f"UPDATE events SET id = {number + 1} WHERE id = {number}")
    _inserted(log, ids[6], ids[5])
    with log.engine.begin() as connection:
        entries = _entries(connection)
    forged = entry_hash(str(entries[5]["hash"]), AuditEntry.of_json(entries[6] | {"hash": None}))
    log.do(f"UPDATE events SET hash = '{forged}' WHERE id = {ids[6]}")


def _out_of_its_federation(log: Log) -> None:
    """It is in no list of the federation's then, and its hash stays right."""
    with log.engine.begin() as connection:
        entry = _entries(connection)[5]
    data = json.dumps(entry["data"] | {"federation": entry["federation"]})
    as_json = "CAST(:data AS json)" if log.engine.dialect.name == "postgresql" else ":data"
    log.do(f"UPDATE events SET federation_id = NULL, data = {as_json} WHERE id = {entry['id']}", data=data)


SEEN_BY_ITSELF: dict[str, tuple[Tampering, str]] = {
    "actor": (_field("actor", "'api-key:other'"), "does not fit"),
    "kind": (_field("kind", "'client.revoked'"), "does not fit"),
    "time": (_field("at", "'2026-01-02 03:04:05'"), "does not fit"),
    "address": (_field("address", "'192.0.2.1'"), "does not fit"),
    "federation": (_field("federation_id", "NULL"), "does not fit"),
    "data": (_field("data", "'{}'"), "does not fit"),
    "hash": (_field("hash", f"'{'f' * 64}'"), "does not fit"),
    "no hash": (_field("hash", "NULL"), "has no hash"),
    "swapped": (_swapped, "does not fit"),
    "deleted": (lambda log: log.do(f"DELETE FROM events WHERE id = {log.ids()[5]}"), "does not fit"),
    "the first deleted": (lambda log: log.do(f"DELETE FROM events WHERE id = {log.ids()[0]}"), "does not fit"),
    "inserted between": (_inserted_between, "does not fit"),
    "out of its federation": (_out_of_its_federation, "was taken out of the federation 'trial'"),
}


def test_what_is_changed_swapped_removed_or_put_in_is_named(log: Log) -> None:
    assert log.misfit() is None
    found = {}
    for name, (tamper, _) in SEEN_BY_ITSELF.items():
        tamper(log)
        found[name] = log.misfit()
        log.restore()
        assert log.misfit() is None
    wrong = {name: found[name] for name, (_, said) in SEEN_BY_ITSELF.items() if said not in (found[name] or "")}
    assert not wrong


def _cut(log: Log) -> None:
    log.do(f"DELETE FROM events WHERE id > {log.ids()[-4]}")


def _made_anew(log: Log) -> None:
    _field("actor", "'api-key:other'")(log)
    log.rechain()


def _deleted_and_made_anew(log: Log) -> None:
    log.do(f"DELETE FROM events WHERE id = {log.ids()[5]}")
    log.rechain()


def _restored(log: Log) -> None:
    """A backup from before the last four, in which the servers have gone on since."""
    _cut(log)
    for number in range(5):
        assert log.invite(log.servers[number % WRITERS], f"site-{number + 100}") == 201


SEEN_BY_AN_ANCHOR: dict[str, tuple[Tampering, str]] = {
    "the end cut off": (_cut, "its end was cut off, or the database is a restored backup"),
    "all of it deleted": (lambda log: log.do("DELETE FROM events"), "the log is empty"),
    "changed, and all hashes made anew": (_made_anew, "is not what the anchor"),
    "deleted, and all hashes made anew": (_deleted_and_made_anew, "is not what the anchor"),
    "restored from a backup": (_restored, "is not what the anchor"),
}


def test_what_only_an_anchor_shows(log: Log) -> None:
    anchor = log.head()
    found = {}
    for name, (tamper, _) in SEEN_BY_AN_ANCHOR.items():
        tamper(log)
        assert log.misfit() is None, name
        found[name] = log.misfit(anchor)
        log.restore()
        assert log.misfit(anchor) is None
    assert not {name: found[name] for name, (_, said) in SEEN_BY_AN_ANCHOR.items() if said not in (found[name] or "")}


def test_an_entry_at_the_end_is_shown_by_the_last_head_that_a_server_logged_alone(log: Log) -> None:
    """With its right hash it is an entry like any other: each earlier anchor fits."""
    anchor = log.head()
    heads = {
        json.loads(line)["anchor"]
        for server in log.servers
        for line in server.log.read_text(encoding="utf-8").splitlines()
        if '"audit.head"' in line
    }
    assert anchor in heads
    _inserted(log, log.ids()[-1] + 1, log.ids()[5])
    log.rechain()
    assert log.misfit(anchor) is None
    assert log.head() not in heads


async def test_a_row_before_the_first_entry_is_in_no_list(log: Log) -> None:
    """The log begins with number 1, so verifying it sees no such row; the dashboard showed it as an entry."""
    newest = log.ids()[-1]
    for number in (-7, 0):
        _inserted(log, number, newest)
    database = Database(log.database_url)
    async with database.snapshot() as session:
        rows = await newest_events(session, "trial", None, 200)
    await database.close()
    assert rows and all(row.id > 0 for row in rows)
    assert log.misfit() is None
