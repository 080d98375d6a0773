"""OpenAPI tells the truth: requests of every role to a real process, generated from it, on both databases."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.control_plane.rest import FEDERATION, KEY, Rest, in_process, settings_for
from tests.identity_provider import AUDIENCE, CLIENT, IdentityProvider, identity_provider
from tests.servers import accepts, child, free_port, wait_until

from fedafd.storage import StoreSettings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
HEADERS = {"Authorization": f"Bearer {KEY}"}
NOBODY = ("no key", "a wrong key")
EXAMPLES = 3
"""Of each operation; each caller sends one of them at least, and an admin all."""


@dataclass
class Server:
    """A control plane's process, whoever may ask it, and what they were answered."""

    url: str
    log: Path
    callers: dict[str, dict[str, str]]
    """From who may do least to who may do most: what an admin does may end it for the others."""
    answers: dict[str, Counter[int]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        yield provider


@pytest.fixture
async def callers(database_url: str, tmp_path: Path, provider: IdentityProvider) -> dict[str, dict[str, str]]:
    """Of each kind one, after something was put into the database and the store."""
    async with in_process(settings_for(database_url, StoreSettings(url=str(tmp_path / "store")))) as rest:
        await rest.federation()
        await rest.federation("elsewhere")
        await rest.public_set(tmp_path)
        north = await rest.enrol("north")
        await rest.publish(2)
        await rest.share("north")
        scoped = {"name": "scoped", "role": "operator", "federations": ["elsewhere"]}
        made = await rest.http.post("/api-keys", json=scoped)
        every = {
            "no key": {},
            "a wrong key": {"Authorization": "Bearer nobody's"},
            "a client": north,
            "a viewer": await rest.key("viewer", "viewer"),
            "a person who views": {"Authorization": f"Bearer {provider.token(groups='staff')}"},
            "an operator of another federation": {"Authorization": f"Bearer {made.json()['secret']}"},
            "a person who operates": {"Authorization": f"Bearer {provider.token(groups='team')}"},
            "an operator": await rest.key("operator", "operator"),
            "an admin": HEADERS,
        }
    # Who may what is the same on PostgreSQL; what is done there is not.
    return every if database_url.startswith("sqlite") else {name: every[name] for name in ("an operator", "an admin")}


@pytest.fixture
def server(
    callers: dict[str, dict[str, str]], database_url: str, tmp_path: Path, provider: IdentityProvider
) -> Iterator[Server]:
    port, log = free_port(), tmp_path / "control-plane.log"
    values = {
        "DATABASE_URL": database_url,
        "STORE__URL": str(tmp_path / "store"),
        "ADMIN_KEY": KEY,
        "PORT": str(port),
        "OIDC__ISSUER": provider.issuer,
        "OIDC__CLIENT_ID": CLIENT,
        "OIDC__AUDIENCE": AUDIENCE,
        "OIDC__ROLES": '{"staff": "viewer", "team": "operator"}',
    }
    environment = {f"FEDAFD_CONTROL_PLANE_{name}": value for name, value in values.items()}
    with child([sys.executable, "-m", "fedafd.control_plane.app"], log, **environment) as process:

        def listens() -> bool:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            return accepts(port)

        wait_until(listens, "the control plane", 60)
        yield Server(f"http://127.0.0.1:{port}", log, callers)


def test_generated_requests_of_every_role_are_answered_as_documented(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", timeout=60)
    results = list(schema.get_all_operations())
    operations = [result.ok() for result in results if isinstance(result, Ok)]
    assert len(operations) == len(results) > 35, results
    for operation in sorted(operations, key=_what_ends_a_caller_last):
        _try(operation, server)
    for name, answers in server.answers.items():
        assert answers.total() >= len(operations), (name, answers)
        assert name in NOBODY or answers[401] < len(operations) / 4, (name, answers)
    assert set(server.answers) == set(server.callers)
    assert httpx.get(f"{server.url}/readyz", timeout=60).status_code == 200
    assert "Traceback" not in server.log.read_text(encoding="utf-8")


def _what_ends_a_caller_last(operation: Any) -> tuple[bool, ...]:
    changes = operation.method != "get"
    return changes and "/clients/" in operation.path, operation.method == "delete", changes


def _try(operation: Any, server: Server) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def request(case: Any) -> None:
        # What exists is asked for more often than chance would.
        for name, value in {"federation": "trial", "client": "north", "version": "current", "number": 1}.items():
            if name in case.path_parameters and len(str(case.path_parameters[name])) % 2:
                case.path_parameters[name] = value
        if case.path.endswith("/events"):
            case.headers = {"Accept": "application/json"}
        send(case, *shares.pop(0), "an admin")
        cases.append(case)

    def send(case: Any, *names: str) -> None:
        for name in names:
            answer = case.call_and_validate(headers=server.callers[name], checks=CHECKS, timeout=60)
            server.answers.setdefault(name, Counter())[answer.status_code] += 1
            assert not (name in NOBODY and answer.status_code < 300 and case.path.startswith("/v1/")), case.path

    others = [name for name in server.callers if name != "an admin"]
    shares = [others[number::EXAMPLES] for number in range(EXAMPLES)]
    cases: list[Any] = []
    request()
    # An operation that takes nothing has fewer examples.
    for share in shares:
        send(cases[-1], *share)


async def test_the_document_names_every_error_by_one_schema(rest: Rest) -> None:
    document = rest.app.openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    assert list(response["content"]) == ["application/problem+json"], (method, path, status)
            if path.startswith("/v1/"):
                assert {"401", "403"} <= set(operation["responses"]), (method, path)
                assert operation["security"], (method, path)
            if method == "post" and not path.endswith("/search"):  # which changes nothing
                headers = [each["name"] for each in operation["parameters"] if each["in"] == "header"]
                assert "Idempotency-Key" in headers, path


async def test_the_example_configuration_fits_its_schema(rest: Rest) -> None:
    await rest.federation()
    made = await rest.http.get(f"/federations/{FEDERATION['name']}")
    assert made.json()["config"]["preset"] == FEDERATION["preset"]
