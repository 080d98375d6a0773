"""Who reads a model stands in the audit log; an invitation opens nothing of what the client shared before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import update
from tests.control_plane.rest import Rest, problem

from fedafd.control_plane.models.reads import _MOST, ModelRead, ModelReads
from fedafd.domain.kinds import ParticipantKind
from fedafd.persistence.client_repository import enrol_client
from fedafd.persistence.models import PersonalizedModelRow

NORTH = "/federations/trial/clients/north"
GLOBAL = "/federations/trial/models/1"


async def _reads(rest: Rest) -> list[tuple[str, Any, str]]:
    events = (await rest.http.get("/federations/trial/events?limit=200")).json()["items"]
    return [
        (event["actor"], event["data"].get("client"), event["data"]["what"])
        for event in events
        if event["kind"] == "model.read"
    ]


async def test_every_read_of_a_model_is_in_the_audit_log(rest: Rest) -> None:
    await rest.federation()
    north = await rest.enrol("north")
    viewer = await rest.key("board", "viewer")
    await rest.publish(1)
    await rest.share("north")
    for path in ("/archive", "/files/config.json", "/files/config.json"):
        assert (await rest.http.get(f"{GLOBAL}{path}", headers=viewer)).status_code == 200
        assert (await rest.http.get(f"{NORTH}/models/1{path}", headers=north)).status_code == 200
    assert (await rest.http.get(f"{NORTH}/models/current", headers={})).status_code == 200
    assert sorted(await _reads(rest), key=str) == [
        ("api-key:admin", "north", "(details)"),
        ("api-key:board", None, "(archive)"),
        ("api-key:board", None, "config.json"),
        ("client:north", "north", "(archive)"),
        ("client:north", "north", "config.json"),
    ]


async def test_what_was_refused_is_no_read(rest: Rest) -> None:
    await rest.federation()
    await rest.enrol("north")
    south = await rest.enrol("south")
    await rest.publish(1)
    await rest.share("north")
    assert (await rest.http.get(f"{NORTH}/models/1/archive", headers=south)).status_code == 403
    assert (await rest.http.get(f"{GLOBAL}/files/none")).status_code == 404
    assert await _reads(rest) == []


async def test_reading_again_and_again_does_not_fill_the_audit_log(rest: Rest) -> None:
    await rest.federation()
    await rest.publish(1)
    for start in range(20):
        await rest.http.get(f"{GLOBAL}/files/config.json", headers={"Range": f"bytes={start}-{start}"})
    assert len(await _reads(rest)) == 1


def test_the_reads_that_are_remembered_are_bounded() -> None:
    from fedafd.control_plane.callers import Caller

    reads, caller = ModelReads(), Caller("1", "board", None, "secret")
    first = ModelRead(caller, "trial", None, 0, "x")
    for version in range(_MOST + 5):
        reads.note(ModelRead(caller, "trial", None, version, "x"))
    assert len(reads._noted) == _MOST
    assert reads.is_new(first)


async def test_who_enrols_by_a_new_invitation_reads_nothing_that_was_shared_before(rest: Rest) -> None:
    await rest.federation()
    await rest.enrol("north")
    operator = await rest.key("op", "operator")
    await rest.publish(1)
    await rest.share("north")
    invited = await rest.http.post(f"{NORTH}/invitations", headers=operator)
    assert invited.status_code == 201
    async with rest.context.database.transaction() as session:
        _, credential, _ = await enrol_client(session, invited.json()["enrolment_token"], ParticipantKind.TEXT, "1.0")
    taken = {"Authorization": f"Bearer {credential}"}
    for path in ("/1", "/current", "/1/archive", "/1/files/config.json"):
        answer = await rest.http.get(f"{NORTH}/models{path}", headers=taken)
        assert "admin" in problem(answer, 403, "forbidden")
        assert (await rest.http.get(f"{NORTH}/models{path}")).status_code == 200
    problem(await rest.http.post(f"{NORTH}/models/1/tickets", headers=taken), 403, "forbidden")
    assert (await rest.http.get(f"{NORTH}/models", headers=taken)).json()["items"] == []
    assert len((await rest.http.get(f"{NORTH}/models")).json()["items"]) == 1


async def test_what_is_shared_after_the_new_enrolment_is_its_own(rest: Rest) -> None:
    await rest.federation()
    await rest.enrol("north")
    invited = await rest.http.post(f"{NORTH}/invitations")
    async with rest.context.database.transaction() as session:
        row, credential, _ = await enrol_client(session, invited.json()["enrolment_token"], ParticipantKind.TEXT, "1.0")
    await rest.publish(1)
    await rest.share("north")
    assert row.enrolled_at is not None
    async with rest.context.database.transaction() as session:
        later = row.enrolled_at + timedelta(seconds=1)
        await session.execute(update(PersonalizedModelRow).values(created_at=later))
    own = {"Authorization": f"Bearer {credential}"}
    assert (await rest.http.get(f"{NORTH}/models/1/files/config.json", headers=own)).status_code == 200
    assert len((await rest.http.get(f"{NORTH}/models", headers=own)).json()["items"]) == 1
