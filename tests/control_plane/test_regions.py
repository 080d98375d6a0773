"""Regions over REST: invited with a bound, refused where the federation needs rows of single clients."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.control_plane.rest import FEDERATION, Rest, problem

from fedafd.domain.kinds import ParticipantKind
from fedafd.persistence.client_repository import get_client, invite_client
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import ParticipationRow
from fedafd.persistence.participation_repository import invite_cohort
from fedafd.persistence.round_repository import add_rounds

CLIENTS = "/federations/trial/clients"
REGION = {"name": "north", "kind": "region", "max_clients": 3}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database: nothing here depends on which."""
    return f"sqlite:///{tmp_path}/test.db"


async def test_a_region_is_invited_with_the_number_of_clients_it_may_stand_for(rest: Rest) -> None:
    await rest.federation()
    made = (await rest.http.post(CLIENTS, json=REGION)).json()
    assert (made["kind"], made["max_clients"]) == ("region", 3)
    assert (await rest.http.get(f"{CLIENTS}/north")).json()["max_clients"] == 3
    for wrong in ({"name": "a", "kind": "region"}, {"name": "a", "kind": "image", "max_clients": 3}):
        assert "max_clients" in problem(await rest.http.post(CLIENTS, json=wrong), 422, "invalid-request")
    problem(await rest.http.post(CLIENTS, json=REGION | {"max_clients": 0}), 422, "invalid-request")


async def test_another_invitation_may_change_the_bound(rest: Rest) -> None:
    await rest.federation()
    await rest.http.post(CLIENTS, json=REGION)
    again = f"{CLIENTS}/north/invitations"
    assert (await rest.http.post(again, json={"max_clients": 9})).json()["max_clients"] == 9
    assert (await rest.http.post(again)).json()["max_clients"] == 9
    await rest.http.post(CLIENTS, json={"name": "site", "kind": "image"})
    refused = await rest.http.post(f"{CLIENTS}/site/invitations", json={"max_clients": 9})
    assert "is no region" in problem(refused, 422, "invalid-request")


@pytest.mark.parametrize(
    ("values", "words"),
    [({"strategy": "fedavg"}, "strategy fedavg averages"), ({"distillation": {"staleness_decay": 0.5}}, "staleness")],
    ids=["fedavg", "staleness"],
)
async def test_what_needs_rows_of_single_clients_and_regions_exclude_each_other(
    rest: Rest, values: dict[str, object], words: str
) -> None:
    await rest.http.post("/federations", json=FEDERATION | values)
    assert words in problem(await rest.http.post(CLIENTS, json=REGION), 422, "invalid-configuration")
    await rest.http.put("/federations/trial", json=FEDERATION)
    assert (await rest.http.post(CLIENTS, json=REGION)).status_code == 201
    refused = await rest.http.put("/federations/trial", json=FEDERATION | values)
    assert words in problem(refused, 422, "invalid-configuration")
    await rest.http.delete(f"{CLIENTS}/north")
    assert (await rest.http.put("/federations/trial", json=FEDERATION | values)).status_code == 200
    assert words in problem(await rest.http.post(f"{CLIENTS}/north/invitations"), 422, "invalid-configuration")


async def test_a_regions_own_federation_starts_no_round(rest: Rest) -> None:
    await rest.federation()
    async with rest.context.database.transaction() as session:
        (await get_federation(session, "trial")).follows = "upper"
    detail = problem(await rest.http.post("/federations/trial/rounds", json={"count": 1}), 409, "conflict")
    assert "is a region of federation upper" in detail
    assert (await rest.http.get("/federations/trial")).json()["follows"] == "upper"


async def test_a_round_shows_how_many_clients_a_region_stands_for(rest: Rest, tmp_path: Path) -> None:
    await rest.federation()
    async with rest.context.database.transaction() as session:
        await invite_client(session, "trial", "north", ParticipantKind.REGION, timedelta(hours=1), max_clients=3)
        row = await get_client(session, "trial", "north")
        (begun,) = await add_rounds(session, "trial", FEDERATION, "a" * 64, 1)
        await invite_cohort(session, begun.id, [row])
        part = (await session.scalars(select(ParticipationRow))).one()
        part.region_clients = {"total": 2, "image": 2}
    (told,) = (await rest.http.get("/federations/trial/rounds/1")).json()["participations"]
    assert (told["kind"], told["num_clients"]) == ("region", 2)
