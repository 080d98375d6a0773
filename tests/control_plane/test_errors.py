"""Every error of the domain, and those that the framework finds, reach HTTP as docs/errors.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.control_plane.rest import Rest, problem

from fedafd.control_plane.limits import BODY_BYTES, MANIFEST_BYTES
from fedafd.domain.errors import ERROR_STATUS, FedafdError

TABLE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
DOCUMENTED = {
    code: int(status) for code, status in re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", TABLE.read_text(), re.MULTILINE)
}


def _made(kind: type[FedafdError]) -> FedafdError:
    made = kind.__new__(kind)
    FedafdError.__init__(made, "what was wrong, where, and what to do")
    return made


async def test_each_error_of_the_domain_arrives_as_documented(rest: Rest) -> None:
    assert set(DOCUMENTED) == {kind.code for kind in ERROR_STATUS}
    for number, kind in enumerate(ERROR_STATUS):

        async def fail(kind: type[FedafdError] = kind) -> None:
            raise _made(kind)

        rest.app.add_api_route(f"/v1/test/{number}", fail)
        answer = await rest.http.get(f"/test/{number}")
        assert "what was wrong" in problem(answer, DOCUMENTED[kind.code], kind.code)
        assert answer.json()["retryable"] is kind.retryable
        assert ("retry-after" in answer.headers) is kind.retryable


async def test_a_surprise_tells_nothing_of_the_inside(rest: Rest) -> None:
    async def fail() -> None:
        raise ValueError("secret detail")

    rest.app.add_api_route("/v1/test", fail)
    assert "secret" not in problem(await rest.http.get("/test"), 500, "internal")


async def test_a_path_or_method_that_is_none(rest: Rest) -> None:
    assert "/v1/nowhere" in problem(await rest.http.get("/nowhere"), 404, "not-found")
    answer = await rest.http.patch("/federations")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"]


async def test_a_malformed_request_says_where(rest: Rest) -> None:
    await rest.federation()
    answer = await rest.http.post("/federations/trial/rounds", json={"count": 0, "wrong": 1})
    assert "body.count" in problem(answer, 422, "invalid-request")
    assert {error["location"] for error in answer.json()["errors"]} == {"body.count", "body.wrong"}
    json = {"Content-Type": "application/json"}
    problem(await rest.http.post("/federations/trial/rounds", content="{", headers=json), 422, "invalid-request")
    for path in (
        "/federations/Trial",
        *(f"/federations/trial/rounds/{number}" for number in (0, "9" * 11, "9" * 5000)),
    ):
        problem(await rest.http.get(path), 422, "invalid-request")
    for path in ("/federations?limit=0", "/federations?limit=201", "/federations?limit=x"):
        problem(await rest.http.get(path), 422, "invalid-request")


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "streamed"])
async def test_a_body_that_is_too_long_is_refused(rest: Rest, announced: bool) -> None:
    await rest.federation()

    async def blocks(total: int):  # type: ignore[no-untyped-def]
        for _ in range(total // 65536 + 1):
            yield b" " * 65536

    for method, path, limit in (
        ("POST", "/federations", BODY_BYTES),
        ("PUT", "/federations/trial/public-set", MANIFEST_BYTES),
    ):
        content = b" " * (limit + 1) if announced else blocks(limit)
        answer = await rest.http.request(method, path, content=content, headers={"Content-Type": "application/json"})
        assert str(limit) in problem(answer, 413, "request-too-large")


async def test_a_database_that_is_away_is_a_503(rest: Rest, tmp_path: Path) -> None:
    from fedafd.persistence.database import Database

    away = Database(f"sqlite:///{tmp_path}/no/such/folder.db")
    working = rest.context.database
    object.__setattr__(rest.context, "database", away)
    answer = await rest.http.get("/federations")
    object.__setattr__(rest.context, "database", working)
    problem(answer, 503, "database-unavailable")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 20, "-1", "0x1", "\u0663"])
async def test_a_number_that_is_none_is_refused(rest: Rest, number: str) -> None:
    await rest.federation()
    for path in (f"/federations/trial/rounds/{number}", f"/federations/trial/models/{number}"):
        problem(await rest.http.get(path), 422, "invalid-request")
