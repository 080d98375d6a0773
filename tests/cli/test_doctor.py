"""`fedafd doctor` on real parts: a deployment that is well, and one part of it spoilt at a time."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from tests.certificates import Authority
from tests.identity_provider import identity_provider
from tests.servers import redis_server

from fedafd.cli.doctor.up_folder import note_settings
from fedafd.cli.main import main
from fedafd.local.services import Backends, Services
from fedafd.local.supervisor import Supervisor
from fedafd.persistence.migrate import migrate

Look = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Control plane and aggregator run; the distiller does not, and is looked at all the same."""
    folder = tmp_path_factory.mktemp("doctor")
    with redis_server(folder) as url, Supervisor(folder / "logs") as supervisor:
        store = {"URL": str(folder / "store")}
        backends = Backends(database_url=f"sqlite:///{folder}/fedafd.db", redis_url=url, store=store)
        services = Services(supervisor, backends, http_port=None, threads=1)
        services.start(distiller=False)
        yield services


@pytest.fixture
def look(services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Look:
    """The exit code and the answer; changes of variables are given by their names without FEDAFD_."""
    for process in ("CONTROL_PLANE", "AGGREGATOR", "DISTILLER", "QUERIES"):
        for name, value in services.environment(process).items():
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("FEDAFD_DISTILLER_DEVICE", "cpu")

    def call(*arguments: str, **changes: str | None) -> tuple[int, dict[str, Any]]:
        for name, value in changes.items():
            monkeypatch.delenv(f"FEDAFD_{name}") if value is None else monkeypatch.setenv(f"FEDAFD_{name}", value)
        monkeypatch.setattr(sys, "argv", ["fedafd", "doctor", *(arguments or ("--output", "json"))])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr().out
        return int(ended.value.code or 0), yaml.safe_load(out) if "table" not in arguments else {"text": out}

    return call


def told(answer: tuple[int, dict[str, Any]], about: str, words: str) -> dict[str, str]:
    """The one finding about that which says so; the command ended with 1 if it is bad."""
    code, found = answer
    matching = [each for each in found["findings"] if each["about"] == about and words in each["words"]]
    assert len(matching) == 1, json.dumps(found, indent=1)
    assert code == (found["level"] == "bad")
    assert bool(matching[0]["remedy"]) is (matching[0]["level"] != "fine")
    return dict(matching[0])


def test_of_a_deployment_that_is_well_everything_is_looked_at_and_nothing_is_bad(look: Look) -> None:
    code, found = look()
    assert (code, [each for each in found["findings"] if each["level"] == "bad"]) == (0, [])
    assert {each["about"] for each in found["findings"]} == {
        "versions", "settings", "ports", "disk", "migrations", "database", "broker", "store", "certificates",
        "aggregator", "device", "queries",
    }  # fmt: skip
    said = " ".join(each["words"] for each in found["findings"])
    for words in ("the control-plane answers there", "1 MiB written and read again", "takes writes", "can serve"):
        assert words in said
    assert look("--output", "yaml")[1]["level"] == found["level"]
    text = look("--output", "table")[1]["text"]
    assert text.startswith("ok   versions     fedafd ")


def test_a_look_leaves_nothing_behind(look: Look, services: Services) -> None:
    from sqlalchemy import create_engine, text

    look()
    with create_engine(services.backends.database_url).connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM events WHERE actor = 'doctor'")) == 0
    assert not list(Path(services.backends.store["URL"]).rglob("doctor*"))
    with redis.Redis.from_url(services.backends.redis_url) as client:
        assert not list(client.scan_iter("fedafd:doctor:*"))


def test_a_database_that_is_away_or_not_migrated(look: Look, tmp_path: Path) -> None:
    one = {"CONTROL_PLANE_DATABASE_URL": f"sqlite:///{tmp_path}/a.db", "AGGREGATOR_DATABASE_URL": None}
    assert told(look(**one), "database", "there is no such file yet")["remedy"] == "make it: `fedafd migrate`"
    assert not (tmp_path / "a.db").exists()
    migrate(f"sqlite:///{tmp_path}/a.db", "0005")
    found = told(look(CONTROL_PLANE_DATABASE_URL=f"sqlite:///{tmp_path}/a.db"), "migrations", "at revision 0005")
    assert "fedafd migrate" in found["remedy"]
    gone = "postgresql://me:secret@127.0.0.1:1/fedafd"
    found = told(look(CONTROL_PLANE_DATABASE_URL=gone), "database", "cannot be reached")
    assert "secret" not in json.dumps(found)


def test_a_broker_that_is_away_or_forgets(look: Look, services: Services) -> None:
    with redis.Redis.from_url(services.backends.redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert told(look(), "broker", "allkeys-lru")["level"] == "look"
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    away = {
        f"{name}_REDIS_URL": "redis://:secret@127.0.0.1:1/0"
        for name in ("CONTROL_PLANE", "AGGREGATOR", "DISTILLER", "QUERIES")
    }
    found = told(look(**away), "broker", "127.0.0.1:1/0: ")
    assert (found["level"], "secret" in json.dumps(found)) == ("bad", False)


def test_a_query_worker_that_is_set_up_and_does_not_run(look: Look, services: Services) -> None:
    found = told(look(), "queries", "although one is set up here")
    assert (found["level"], found["remedy"]) == ("look", "start it: `fedafd queries`")
    told(look(), "store", "this process only reads")
    found = told(look(QUERIES_STORE__URL=None), "settings", "FEDAFD_QUERIES_STORE__URL: must be set")
    assert found["level"] == "bad"
    with redis.Redis.from_url(services.backends.redis_url) as client:
        client.set("fedafd:query-workers", "1")
        try:
            assert told(look(), "queries", "a query worker is running")["level"] == "fine"
        finally:
            client.delete("fedafd:query-workers")
    found = told(look(QUERIES_REDIS_URL=None), "queries", "only who tries a version needs one")
    assert found["level"] == "fine"


def test_a_store_that_is_not_mounted_or_another_for_one_process(look: Look, tmp_path: Path) -> None:
    answer = look(DISTILLER_STORE__URL=str(tmp_path / "nowhere"))
    assert told(answer, "store", "nowhere: no such folder")["level"] == "bad"
    assert told(answer, "settings", "different values of STORE__URL")["level"] == "bad"
    assert not (tmp_path / "nowhere").exists()


def test_wrong_and_missing_settings_are_named(look: Look) -> None:
    answer = look(AGGREGATOR_INTERNAL_TOKEN=None, CONTROL_PLANE_PORT="99999")
    assert "FEDAFD_AGGREGATOR_INTERNAL_TOKEN: must be set" in told(answer, "settings", "aggregator: ")["words"]
    assert "FEDAFD_CONTROL_PLANE_PORT" in told(answer, "settings", "control-plane: ")["words"]


def test_where_nothing_is_set_up_it_says_so(look: Look, monkeypatch: pytest.MonkeyPatch, services: Services) -> None:
    for process in ("CONTROL_PLANE", "AGGREGATOR", "DISTILLER", "QUERIES"):
        for name in services.environment(process):
            monkeypatch.delenv(name)
    assert "fedafd up" in told(look(DISTILLER_DEVICE=None), "settings", "no process is set up here")["remedy"]


def test_where_the_folder_of_an_up_lies_it_is_looked_at(
    look: Look, monkeypatch: pytest.MonkeyPatch, services: Services, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fedafd-data" / "secrets").mkdir(parents=True)
    processes = ("CONTROL_PLANE", "AGGREGATOR", "DISTILLER", "QUERIES")
    given = {name: value for process in processes for name, value in services.environment(process).items()}
    note_settings(tmp_path / "fedafd-data", given)
    for name in given:
        monkeypatch.delenv(name)
    assert told(look(DISTILLER_DEVICE=None), "ports", "the control-plane answers there")["level"] == "fine"


def test_a_port_that_another_program_has(look: Look) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = told(look(CONTROL_PLANE_PORT=str(port)), "ports", f"127.0.0.1:{port}: another program listens")
        assert "FEDAFD_CONTROL_PLANE_PORT" in found["remedy"]


@pytest.mark.parametrize(
    ("days", "level", "words"), [(30, "fine", "valid until"), (3, "look", "days from now"), (-1, "bad", "expired")]
)
def test_certificates_and_their_ends(look: Look, tmp_path: Path, days: int, level: str, words: str) -> None:
    certificate, key = Authority(tmp_path, "hospital").issue("aggregator", days=days)
    answer = look(AGGREGATOR_TLS_CERTIFICATE=str(certificate), AGGREGATOR_TLS_KEY=str(key))
    assert told(answer, "certificates", words)["level"] == level


def test_certificate_and_key_that_do_not_fit(look: Look, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "hospital")
    (certificate, _), (_, key) = authority.issue("one"), authority.issue("two")
    answer = look(AGGREGATOR_TLS_CERTIFICATE=str(certificate), AGGREGATOR_TLS_KEY=str(key))
    assert told(answer, "certificates", "the key does not belong to the certificate")["level"] == "bad"


def test_a_distiller_that_does_not_reach_the_aggregator(look: Look) -> None:
    assert told(look(DISTILLER_AGGREGATOR="127.0.0.1:1"), "aggregator", "127.0.0.1:1")["level"] == "bad"


def test_a_device_that_is_not_here(look: Look) -> None:
    found = told(look(DISTILLER_DEVICE="cuda:63"), "device", "cuda:63 is asked for, but it is not here")
    assert "FEDAFD_DISTILLER_DEVICE" in found["remedy"]


def test_an_identity_provider_that_answers_and_one_that_does_not(look: Look) -> None:
    with identity_provider() as provider:
        given = {"ISSUER": provider.issuer, "CLIENT_ID": "fedafd", "ROLES": '{"staff": "viewer"}'}
        given = {f"CONTROL_PLANE_OIDC__{name}": value for name, value in given.items()}
        told(look(**given), "identity provider", "tells of itself and of its keys")
        other = given | {"CONTROL_PLANE_OIDC__ISSUER": f"{provider.issuer}/realm"}
        told(look(**other), "identity provider", "/realm/.well-known/openid-configuration: answers 404")
