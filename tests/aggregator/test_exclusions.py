"""A client that an operator left out is not invited from that round on, and nothing waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.aggregator.world import World

from fedafd.persistence.client_repository import get_client
from fedafd.persistence.participation_repository import list_participations


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database: tests/persistence has both."""
    return f"sqlite:///{tmp_path}/test.db"


async def leave_out(world: World, name: str, number: int | None) -> None:
    async with world.context.database.transaction() as session:
        (await get_client(session, "trial", name)).excluded_from_round = number


async def invited(world: World, round_id: str) -> list[str]:
    async with world.context.database.snapshot() as session:
        return [client.name for _, client in await list_participations(session, round_id)]


async def test_it_is_invited_until_that_round_and_again_once_it_is_taken_back(world: World) -> None:
    south = await world.enrol("south")
    await world.enrol("north")
    await leave_out(world, "north", 2)
    rounds = []
    for number in (1, 2, 3):
        if number == 3:
            await leave_out(world, "north", None)
        rounds.append(await world.start_round(round_deadline_seconds=1e-3))
        await world.prepare()
        while (await world.round(rounds[-1])).state not in ("failed", "completed"):
            await world.coordinate()
    assert south
    assert [await invited(world, each) for each in rounds] == [["north", "south"], ["south"], ["north", "south"]]


async def test_a_round_that_may_invite_nobody_says_why(world: World) -> None:
    await world.enrol("north")
    await leave_out(world, "north", 1)
    round_id = await world.start_round()
    await world.prepare()
    row = await world.round(round_id)
    assert (row.state, "every enrolled client is excluded" in (row.reason or "")) == ("failed", True)
