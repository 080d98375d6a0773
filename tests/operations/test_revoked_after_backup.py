"""A database restored from a backup lets in whom it knew then; `fedafd audit redo` takes away again what was since."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from tests.cli.in_process import run_fedafd
from tests.cli.remote import KEY, ControlPlane

from fedafd.domain.audit_chain import AuditEntry, entry_hash
from fedafd.domain.errors import UnauthenticatedError
from fedafd.domain.kinds import ParticipantKind
from fedafd.domain.secrets import hash_secret
from fedafd.persistence.caller_repository import caller_by_credential
from fedafd.persistence.client_repository import bind_key, enrol_client, get_client
from fedafd.persistence.database import Database
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import utc_now

NOW_REVOKED = ("revoked", "reinvited", "late")


class Site:
    """A control plane's process on a real file, its backup, and what is done to both."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.server = ControlPlane(folder)
        self.file, self.backup = folder / "fedafd.db", folder / "backup.db"
        self._capsys, self._patch = capsys, patch
        for name, value in {"FEDAFD_URL": self.server.url, "FEDAFD_API_KEY": KEY, "FEDAFD_FEDERATION": "trial"}.items():
            patch.setenv(name, value)

    def run(self, *arguments: str) -> str:
        code, out = self.ended(*arguments)
        assert code == 0, out
        return out

    def ended(self, *arguments: str) -> tuple[int, str]:
        code, out, err = run_fedafd(self._patch, self._capsys, *arguments)
        return code, out or err

    def back_up(self) -> None:
        with closing(sqlite3.connect(self.file)) as live, closing(sqlite3.connect(self.backup)) as copy:
            live.backup(copy)

    def restore(self) -> None:
        """As docs/backup.md says."""
        self.server.stop()
        for end in ("-wal", "-shm"):
            self.file.with_name(self.file.name + end).unlink(missing_ok=True)
        self.backup.replace(self.file)
        self.server.start()

    async def enrol(self, token: str) -> str:
        """The credential that an aggregator gives for a token."""
        database = Database(self.server.database_url)
        async with database.transaction() as session:
            client, credential, _ = await enrol_client(session, token.strip(), ParticipantKind.IMAGE, "1.0")
            record_event(session, "client.enrolled", federation_id="trial", actor=f"client:{client.name}")
        await database.close()
        return credential

    async def bind(self, name: str, key_sha256: str) -> None:
        """As an aggregator does with the first key of an agent from before there were keys."""
        database = Database(self.server.database_url)
        async with database.transaction() as session:
            client = await get_client(session, "trial", name)
            assert await bind_key(session, client, key_sha256, utc_now() + timedelta(days=30))
            record_event(session, "client.key_bound", federation_id="trial", actor=f"client:{name}", client=name)
        await database.close()

    async def is_let_in(self, credential: str) -> bool:
        database = Database(self.server.database_url)
        try:
            async with database.transaction() as session:
                await caller_by_credential(session, hash_secret(credential))
        except UnauthenticatedError:
            return False
        finally:
            await database.close()
        return True

    def opens(self, key: str) -> bool:
        headers = {"Authorization": f"Bearer {key.strip()}"}
        return httpx.get(f"{self.server.url}/v1/federations", headers=headers, timeout=60).is_success


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path, capsys, monkeypatch)
    (tmp_path / "federation.yaml").write_text("name: trial\npreset: small\n")
    made.run("federation", "create", "-f", str(tmp_path / "federation.yaml"))
    yield made
    made.server.stop()


async def test_who_was_revoked_after_the_backup_is_let_in_until_the_log_is_done_again(
    site: Site, tmp_path: Path
) -> None:
    tokens = {
        name: site.run("client", "invite", name, "--kind", "image")
        for name in ("stays", "revoked", "reinvited", "late", "excluded", "readmitted")
    }
    credentials = {name: await site.enrol(token) for name, token in tokens.items() if name != "late"}
    keys = {name: site.run("key", "create", name, "--role", "viewer") for name in ("kept", "gone", "turned")}
    site.back_up()

    site.run("client", "revoke", "revoked")
    site.run("client", "forget", "revoked", "--yes", "--no-wait")
    await site.enrol(site.run("client", "invite", "reinvited", "--again"))
    await site.enrol(tokens["late"])
    site.run("client", "exclude", "excluded", "--reason", "copies")
    site.run("client", "exclude", "readmitted", "--reason", "copies")
    site.run("client", "readmit", "readmitted")
    site.run("client", "invite", "new", "--kind", "image")
    site.run("client", "revoke", "new")
    site.run("key", "revoke", "gone")
    site.run("key", "rotate", "turned")
    export = str(tmp_path / "audit.jsonl")
    site.run("audit", "export", export)
    site.restore()

    # What a restore alone does.
    assert await site.is_let_in(credentials["revoked"]) and await site.is_let_in(credentials["reinvited"])
    assert site.opens(keys["gone"]) and site.opens(keys["turned"])
    await site.enrol(tokens["late"])

    planned = site.run("audit", "redo", export, "--dry-run")
    assert await site.is_let_in(credentials["revoked"]) and "would be done" in planned
    told = site.run("audit", "redo", export)
    assert {line.partition(":")[0] for line in told.splitlines() if line.endswith(": done")} == {
        *(f"revoke client {name} of trial" for name in NOW_REVOKED),
        "revoke API key gone",
        "revoke API key turned",
        "exclude client excluded of trial",
        "forget client revoked of trial",
    }
    assert "revoke client new of trial: is not in the backup" in told
    clients = {each["name"]: each for each in json.loads(site.run("client", "list", "--json"))}
    assert {name for name, each in clients.items() if each["state"] == "revoked"} == set(NOW_REVOKED)
    assert [name for name, each in clients.items() if each["excluded_from_round"]] == ["excluded"]
    assert {name for name, credential in credentials.items() if await site.is_let_in(credential)} == {
        "stays",
        "excluded",
        "readmitted",
    }
    assert [name for name, key in keys.items() if site.opens(key)] == ["kept"]

    # Who is invited again from now on stays in.
    credential = await site.enrol(site.run("client", "invite", "reinvited", "--again"))
    assert "nothing was taken away" not in site.run("audit", "redo", export)
    assert await site.is_let_in(credential)


async def test_who_was_bound_to_a_first_key_after_the_backup_is_revoked(site: Site, tmp_path: Path) -> None:
    credentials = {
        name: await site.enrol(site.run("client", "invite", name, "--kind", "image")) for name in ("bound", "stays")
    }
    site.back_up()
    await site.bind("bound", "a" * 64)
    export = str(tmp_path / "audit.jsonl")
    site.run("audit", "export", export)
    site.restore()
    # The restored database takes whoever has the credential, with the first key that comes, and so it did here.
    assert await site.is_let_in(credentials["bound"])
    await site.bind("bound", "b" * 64)

    assert site.run("audit", "redo", export) == "revoke client bound of trial: done\n"
    assert {name for name, credential in credentials.items() if await site.is_let_in(credential)} == {"stays"}
    credential = await site.enrol(site.run("client", "invite", "bound", "--again"))
    assert site.run("audit", "redo", export) == "nothing was taken away since the backup\n"
    assert await site.is_let_in(credential)


async def test_what_was_decided_since_the_restore_stays_when_it_is_done_again(site: Site, tmp_path: Path) -> None:
    for name in ("excluded", "later"):
        await site.enrol(site.run("client", "invite", name, "--kind", "image"))
    own = site.run("key", "create", "own", "--role", "admin").strip()
    site.back_up()
    await site.enrol(site.run("client", "invite", "new", "--kind", "image"))
    site.run("client", "forget", "new", "--yes", "--no-wait")
    site.run("client", "revoke", "new")
    site.run("key", "create", "knew", "--role", "viewer")
    site.run("key", "rotate", "knew")
    site.run("key", "rotate", "own")
    site.run("client", "exclude", "excluded", "--reason", "copies")
    site.run("client", "exclude", "later", "--reason", "copies", "--from-round", "50")
    export = str(tmp_path / "audit.jsonl")
    site.run("audit", "export", export)
    site.restore()

    # The key that the backup knows is turned off last, by itself.
    told = site.run("audit", "redo", export, "--api-key", own)
    assert "exclude client excluded of trial: done" in told and "revoke API key own: done" in told
    assert not site.opens(own)
    excluded = {each["name"]: each["excluded_from_round"] for each in json.loads(site.run("client", "list", "--json"))}
    assert excluded == {"excluded": 1, "later": 50}

    credential = await site.enrol(site.run("client", "invite", "new", "--kind", "image"))
    key = site.run("key", "create", "knew", "--role", "viewer")
    site.run("client", "readmit", "excluded")
    assert site.run("audit", "redo", export) == "nothing was taken away since the backup\n"
    assert await site.is_let_in(credential) and site.opens(key)
    clients = {each["name"]: each for each in json.loads(site.run("client", "list", "--json"))}
    assert clients["excluded"]["excluded_from_round"] is None and clients["later"]["excluded_from_round"] == 50


async def test_an_export_from_before_the_backup_is_no_all_clear(site: Site, tmp_path: Path) -> None:
    export = str(tmp_path / "audit.jsonl")
    credential = await site.enrol(site.run("client", "invite", "north", "--kind", "image"))
    site.run("audit", "export", export)
    site.run("client", "invite", "south", "--kind", "image")
    site.back_up()
    site.run("client", "revoke", "north")
    site.restore()
    code, said = site.ended("audit", "redo", export)
    assert code != 0 and "take a newer export" in said
    assert await site.is_let_in(credential)


def test_a_log_of_another_server_or_with_a_changed_line_does_nothing(site: Site, tmp_path: Path) -> None:
    export = tmp_path / "audit.jsonl"
    site.run("client", "invite", "north", "--kind", "image")
    site.run("audit", "export", str(export))
    assert site.run("audit", "redo", str(export)) == "nothing was taken away since the backup\n"
    lines = export.read_text().splitlines()
    forged = json.loads(lines[-1]) | {"kind": "client.revoked"}
    export.write_text("\n".join([*lines[:-1], json.dumps(forged)]))
    code, said = site.ended("audit", "redo", str(export))
    assert code != 0 and "does not fit" in said
    export.write_text("")
    code, said = site.ended("audit", "redo", str(export))
    assert code != 0 and "another server's" in said
    assert [each["state"] for each in json.loads(site.run("client", "list", "--json"))] == ["invited"]


def test_an_export_that_somebody_made_anew_does_nothing_beside_an_anchor(site: Site, tmp_path: Path) -> None:
    """Its chain fits, as nobody needs a key to make one: who can write the file could revoke or forget anybody."""
    export = tmp_path / "audit.jsonl"
    site.run("client", "invite", "north", "--kind", "image")
    site.back_up()
    site.run("client", "invite", "south", "--kind", "image")
    anchor = site.run("audit", "export", str(export)).rpartition("anchor ")[2].strip()
    site.restore()
    assert site.run("audit", "redo", str(export), "--anchor", anchor, "--dry-run").startswith("nothing was taken away")
    lines = export.read_text().splitlines()
    before, last = json.loads(lines[-2]), json.loads(lines[-1])
    forged = last | {"kind": "client.forget_requested", "data": {"client": "north"}}
    forged["hash"] = entry_hash(before["hash"], AuditEntry.of_json(forged))
    for made in ([*lines[:-1], json.dumps(forged)], lines[:-1]):
        export.write_text("\n".join(made))
        code, said = site.ended("audit", "redo", str(export), "--anchor", anchor)
        assert code != 0 and "anchor" in said
    code, said = site.ended("audit", "redo", str(export), "--anchor", "1:2")
    assert code != 0 and "is not ID:HASH" in said
    (north,) = json.loads(site.run("client", "list", "--json"))
    assert (north["name"], north["state"]) == ("north", "invited")


async def test_a_configuration_and_a_version_of_after_the_backup_are_named(site: Site, tmp_path: Path) -> None:
    """The restored database shares and trusts as before, and rounds start from a version that was turned away from."""
    file = tmp_path / "federation.yaml"
    site.back_up()
    for more in (
        "distillation: {weight_cap: strict}\n",
        "distillation: {weight_cap: strict}\nquorum: {min_clients: 2}\n",
    ):
        file.write_text(f"name: trial\npreset: small\n{more}")
        site.run("federation", "configure", "-f", str(file))
    database = Database(site.server.database_url)
    async with database.transaction() as session:
        told = {"federation_id": "trial", "actor": "api-key:admin"}
        record_event(session, "model.rolled_back", old=5, new=4, **told)
    await database.close()
    export = str(tmp_path / "audit.jsonl")
    site.run("audit", "export", export)
    site.restore()

    assert site.run("audit", "redo", export) == (
        "configure trial anew (distillation, quorum): left to you: `fedafd federation configure`\n"
        "set the current version of trial (version 4 in place of 5): left to you: `fedafd model list`,"
        " `fedafd model promote`\n"
    )
    site.run("federation", "configure", "-f", str(file))
    assert "configure trial" not in site.run("audit", "redo", export)
