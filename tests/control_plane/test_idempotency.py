"""A POST with an Idempotency-Key happens once, however often it is sent, one after the other or at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select, update
from tests.control_plane.rest import FEDERATION, Rest, problem

from fedafd.persistence.api_key_repository import ensure_admin_key
from fedafd.persistence.idempotency_repository import forget_old_answers
from fedafd.persistence.models import IdempotencyRow, utc_now

ONE = {"Idempotency-Key": "one"}
CLIENT = {"name": "north", "kind": "image"}


async def test_a_repeated_request_gives_the_first_answer(rest: Rest) -> None:
    await rest.federation()
    first = await rest.http.post("/federations/trial/clients", json=CLIENT, headers=ONE)
    again = await rest.http.post("/federations/trial/clients", json=CLIENT, headers=ONE)
    assert first.json()["enrolment_token"]
    assert (again.status_code, again.json(), again.headers["location"]) == (
        201,
        first.json(),
        first.headers["location"],
    )
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    kinds = [event["kind"] for event in (await rest.http.get("/federations/trial/events")).json()["items"]]
    assert kinds.count("client.invited") == 1


async def test_the_same_key_with_another_request_is_refused(rest: Rest) -> None:
    await rest.federation()
    await rest.http.post("/federations/trial/clients", json=CLIENT, headers=ONE)
    for path, body in (
        ("/federations/trial/clients", CLIENT | {"kind": "text"}),
        ("/federations/trial/clients/north/invitations", None),
    ):
        answer = await rest.http.post(path, json=body, headers=ONE)
        assert "new key" in problem(answer, 409, "idempotency-conflict")


async def test_another_caller_has_keys_of_its_own(rest: Rest) -> None:
    other = await rest.key("other", "operator")
    assert (await rest.http.post("/federations", json=FEDERATION, headers=ONE)).status_code == 201
    answer = await rest.http.post("/federations", json=FEDERATION, headers=ONE | other)
    problem(answer, 409, "conflict")


async def test_what_failed_may_be_tried_again_with_its_key(rest: Rest, tmp_path: Path) -> None:
    await rest.federation()
    answer = await rest.http.post("/federations/trial/rounds", json={"count": 1}, headers=ONE)
    problem(answer, 409, "conflict")
    await rest.public_set(tmp_path)
    again = await rest.http.post("/federations/trial/rounds", json={"count": 1}, headers=ONE)
    assert again.status_code == 201


async def test_duplicates_that_come_at_once_do_it_once(rest: Rest, tmp_path: Path) -> None:
    await rest.federation()
    await rest.public_set(tmp_path)
    sent = [rest.http.post("/federations/trial/rounds", json={"count": 2}, headers=ONE) for _ in range(8)]
    answers = await asyncio.gather(*sent)
    assert [answer.status_code for answer in answers] == [201] * 8
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    rounds = (await rest.http.get("/federations/trial/rounds")).json()["items"]
    assert [each["number"] for each in rounds] == [1, 2]


async def test_requests_that_come_at_once_without_a_key_all_count(rest: Rest, tmp_path: Path) -> None:
    await rest.federation()
    await rest.public_set(tmp_path)
    answers = await asyncio.gather(*(rest.http.post("/federations/trial/rounds", json={"count": 1}) for _ in range(8)))
    assert sorted(answer.json()["items"][0]["number"] for answer in answers) == list(range(1, 9))


async def test_of_two_that_take_one_name_at_once_one_is_refused(rest: Rest) -> None:
    answers = await asyncio.gather(*(rest.http.post("/federations", json=FEDERATION) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5


async def test_an_answer_is_forgotten_after_its_time(rest: Rest) -> None:
    await rest.federation()
    first = await rest.http.post("/federations/trial/clients", json=CLIENT, headers=ONE)
    async with rest.context.database.transaction() as session:
        old = utc_now() - rest.context.idempotency_lifetime - timedelta(seconds=1)
        await session.execute(update(IdempotencyRow).values(created_at=old))
    again = await rest.http.post("/federations/trial/clients", json=CLIENT, headers=ONE)
    assert again.status_code == 201
    assert again.json()["enrolment_token"] != first.json()["enrolment_token"]
    async with rest.context.database.transaction() as session:
        await forget_old_answers(session, timedelta(0))
        assert (await session.scalars(select(IdempotencyRow.key))).all() == []


async def test_no_secret_lies_in_the_database(rest: Rest) -> None:
    made = await rest.http.post("/api-keys", json={"name": "board", "role": "viewer"}, headers=ONE)
    async with rest.context.database.transaction() as session:
        (row,) = (await session.scalars(select(IdempotencyRow))).all()
    assert made.json()["secret"].encode() not in row.body
    assert b"board" not in row.body


async def test_a_key_that_is_none_is_refused(rest: Rest) -> None:
    for key in ("", "two words", "x" * 201):
        answer = await rest.http.post("/federations", json=FEDERATION, headers={"Idempotency-Key": key})
        problem(answer, 422, "invalid-request")


async def test_an_answer_of_before_a_new_secret_cannot_be_read_and_is_a_conflict(rest: Rest) -> None:
    await rest.federation()
    made = await rest.http.post("/federations/trial/clients", json=CLIENT, headers=ONE)
    assert made.status_code == 201
    async with rest.context.database.transaction() as session:
        await ensure_admin_key(session, "another long and random secret")
    headers = ONE | {"Authorization": "Bearer another long and random secret"}
    again = await rest.http.post("/federations/trial/clients", json=CLIENT, headers=headers)
    assert "new key" in problem(again, 409, "idempotency-conflict")
