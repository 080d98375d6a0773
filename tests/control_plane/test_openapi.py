"""OpenAPI tells the truth: generated requests against the real server, on both databases, checked against it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
from tests.control_plane.rest import FEDERATION, KEY, Rest, in_a_thread, settings_for

from fedafd.storage import StoreSettings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
HEADERS = {"Authorization": f"Bearer {KEY}"}
CALLERS: list[dict[str, str]] = []
"""Of the client north, a viewer and an operator; each request of an admin is sent by one of them as well."""
EXAMPLES = 3


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[str]:
    """A server in a thread of its own, with something in it."""
    CALLERS.clear()

    async def prepare(rest: Rest) -> None:
        await rest.federation()
        await rest.public_set(tmp_path)
        CALLERS.append(await rest.enrol("north"))
        CALLERS.extend([await rest.key(role, role) for role in ("viewer", "operator")])
        await rest.publish(2)
        await rest.share("north")

    with in_a_thread(settings_for(database_url, StoreSettings(url=str(tmp_path / "store"))), prepare) as url:
        yield url


def test_generated_requests_are_answered_as_documented(server: str) -> None:
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json", timeout=60)
    tried = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        _try(result.ok())
        tried += 1
    assert tried > 35
    assert httpx.get(f"{server}/readyz", timeout=60).status_code == 200


def _try(operation: Any) -> None:
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
        # First who may do less: what an admin does may end it for the others.
        other = next(others)
        for headers in (other, HEADERS):
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=60)

    others = itertools.cycle([*CALLERS, {"Authorization": "Bearer nobody's"}])
    request()


def test_the_document_names_every_error_by_one_schema(server: str) -> None:
    document = httpx.get(f"{server}/openapi.json", timeout=60).json()
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


def test_the_example_configuration_fits_its_schema(server: str) -> None:
    made = httpx.get(f"{server}/v1/federations/{FEDERATION['name']}", headers=HEADERS, timeout=60)
    assert made.json()["config"]["preset"] == FEDERATION["preset"]
