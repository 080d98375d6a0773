"""An admin has a client's data deleted over REST: asked for once, told until it is done, with a receipt."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.control_plane.rest import Rest, problem

from fedafd.domain.states import RoundState
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.forgetting_repository import finish_forgetting, forget_rows
from fedafd.persistence.participation_repository import invite_cohort
from fedafd.persistence.round_repository import add_rounds

DATA = "/federations/trial/clients/north/data"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database: the aggregator's tests delete on both."""
    return f"sqlite:///{tmp_path}/test.db"


async def test_a_deletion_is_asked_for_once_waits_for_the_running_round_and_leaves_a_receipt(rest: Rest) -> None:
    await rest.federation()
    await rest.enrol("north")
    nothing = (await rest.http.get(DATA)).json()
    assert nothing == dict.fromkeys(nothing) | {"client": "north"}
    async with rest.context.database.transaction() as session:
        federation = await get_federation(session, "trial")
        (row,) = await add_rounds(session, "trial", federation.config, "0" * 64, 1)
        row.state = RoundState.COLLECTING.value
        await invite_cohort(session, row.id, [await get_client(session, "trial", "north")])
    first, second = await rest.http.delete(DATA), await rest.http.delete(DATA)
    assert first.status_code == second.status_code == 202
    assert first.json() == second.json() == (await rest.http.get(DATA)).json()
    assert first.json()["requested_at"] and first.json()["waits_for_round"] == 1 and first.json()["receipt"] is None
    async with rest.context.database.transaction() as session:
        client = await get_client(session, "trial", "north")
        await forget_rows(session, client)
    assert (await rest.http.get(DATA)).json()["receipt"] is None  # the objects are still to go
    async with rest.context.database.transaction() as session:
        await finish_forgetting(session, client)
    done = (await rest.http.get(DATA)).json()
    assert done["requested_at"] is done["waits_for_round"] is None and done["forgotten_at"]
    assert done["receipt"]["objects"] == 0 and done["receipt"]["sha256"] == []
    told = (await rest.http.get("/federations/trial/events")).json()["items"]
    events = [event for event in told if event["kind"].startswith("client.forg")]
    assert [event["kind"] for event in events] == ["client.forget_requested", "client.forgotten"]
    assert events[0]["actor"].startswith("api-key:")


async def test_nobody_is_forgotten_who_is_not_there(rest: Rest) -> None:
    await rest.federation()
    problem(await rest.http.delete(DATA), 404, "not-found")
