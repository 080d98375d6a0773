"""An exported audit log is evidence: only an export that holds all of it takes its place."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.cli.remote import ControlPlane, Run


@pytest.fixture
def exported(run: Run, federation: Path, control_plane: ControlPlane, tmp_path: Path) -> Iterator[Path]:
    """An export, of some invitations; what is falsified since is undone."""
    folder = tmp_path / "evidence"
    folder.mkdir()
    for number in range(4):
        run("client", "invite", f"audited-{number}", "--kind", "image")
    assert run("audit", "export", str(folder / "audit.jsonl"))[0] == 0
    falsify(control_plane, "CREATE TABLE saved AS SELECT * FROM events")
    yield folder / "audit.jsonl"
    falsify(control_plane, "DELETE FROM events", "INSERT INTO events SELECT * FROM saved", "DROP TABLE saved")


def falsify(control_plane: ControlPlane, *statements: str) -> None:
    with closing(sqlite3.connect(control_plane.database_url.removeprefix("sqlite:///"))) as database, database:
        for statement in statements:
            database.execute(statement)


FALSIFIED = {
    "an entry's actor": ["UPDATE events SET actor = 'api-key:other' WHERE id = 3"],
    "an entry and all hashes from it on": [
        "UPDATE events SET actor = 'api-key:other' WHERE id = 3",
        "UPDATE events SET hash = NULL WHERE id >= 3",
    ],
    "the first entry": ["DELETE FROM events WHERE id = 1", "UPDATE events SET hash = NULL"],
    "an entry in the middle": ["DELETE FROM events WHERE id = 3", "UPDATE events SET hash = NULL WHERE id > 3"],
    "the end": ["DELETE FROM events WHERE id >= 4"],
    "all of it": ["DELETE FROM events"],
}


@pytest.mark.parametrize("what", FALSIFIED)
def test_a_falsified_log_does_not_take_the_place_of_an_earlier_export(
    what: str, run: Run, control_plane: ControlPlane, exported: Path
) -> None:
    before = exported.read_bytes()
    falsify(control_plane, *FALSIFIED[what])
    for grown in (False, True):
        if grown:  # The next write gives the entries their hashes anew, so that the chain itself fits again.
            assert run("client", "invite", "later", "--kind", "image")[0] == 0
        code, _, said = run("audit", "export", str(exported))
        assert code == 1 and "stays as it is" in said and "export to another one" in said
        assert exported.read_bytes() == before
        assert list(exported.parent.iterdir()) == [exported]
    other = exported.with_name("other.jsonl")
    assert run("audit", "export", str(other))[0] == 0 and other.exists()


def test_an_export_that_holds_the_earlier_one_takes_its_place(
    run: Run, control_plane: ControlPlane, exported: Path
) -> None:
    first = exported.read_text()
    assert run("audit", "export", str(exported))[0] == 0
    assert exported.read_text() == first
    # As a replica of a version without the chain writes during an upgrade: the next write gives it its hash.
    falsify(control_plane, "INSERT INTO events (at, kind, actor, data) VALUES ('2026-01-02', 'old.one', 'test', '{}')")
    assert run("audit", "export", str(exported))[0] == 0
    assert '"hash": null' in exported.read_text()
    # Its entries lose the federation's column then.
    assert run("federation", "delete", "trial", "--yes")[0] == 0
    assert run("audit", "export", str(exported))[0] == 0
    assert len(exported.read_text().splitlines()) > len(first.splitlines()) + 1
    assert run("audit", "verify", str(exported))[0] == 0
    exported.write_text("")
    assert run("audit", "export", str(exported))[0] == 0 and exported.stat().st_size > 0


def test_what_is_no_export_is_not_replaced(run: Run, exported: Path) -> None:
    whole = exported.read_bytes()
    pipe, folder = exported.with_name("pipe"), exported.with_name("folder")
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (pipe, folder):
        code, _, said = run("audit", "export", str(path))
        assert code == 1 and "name another one" in said
    for content in (b"notes of somebody\n", whole[:-40], b"\x80\x04.", whole + b"{}\n"):
        exported.write_bytes(content)
        code, _, said = run("audit", "export", str(exported))
        assert code == 1 and "stays as it is" in said
        assert exported.read_bytes() == content
    assert sorted(exported.parent.iterdir()) == [exported, folder, pipe]


def test_an_export_is_for_its_owner_alone_and_overwrites_nothing_of_the_folders_others(
    run: Run, exported: Path
) -> None:
    assert exported.stat().st_mode & 0o777 == 0o600
    linked = exported.parent.parent / "linked"
    linked.write_text("as it was")
    # As somebody may put it there who knows the process's number.
    (exported.parent / f".{exported.name}.{os.getpid()}.part").symlink_to(linked)
    assert run("audit", "export", str(exported))[0] == 0
    assert linked.read_text() == "as it was" and not exported.is_symlink()
