"""Deliveries that come at the same time are accepted together, and none of them suffers from another one's fault."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import event
from tests.aggregator.world import World

from fedafd.aggregator.acceptance import Checked
from fedafd.aggregator.progress import Unwritten
from fedafd.domain.kinds import ClientKind, StageKind
from fedafd.persistence.participation_repository import list_participations
from fedafd.persistence.stage_repository import list_stages

NAMES = ("north", "south", "west")


async def checked(world: World, **faulty: Any) -> tuple[str, list[Checked]]:
    """A delivery of each client, as if it had been checked; the first with `faulty` values."""
    for name in NAMES:
        await world.enrol(name)
    round_id = await world.start_round()
    await world.prepare()
    row = await world.round(round_id)
    async with world.context.database.snapshot() as session:
        parts = await list_participations(session, round_id)
    deliveries = []
    for number, (part, client) in enumerate(parts):
        sha256 = f"{number:064x}"
        key = f"federations/trial/rounds/1/representations/{sha256}"
        values: dict[str, Any] = {
            "client": client,
            "row": row,
            "participation": part,
            "receipt": "receipt",
            "content": {"sha256": sha256, "size_bytes": 1, "purpose": "representations", "key": key},
            "modalities": ClientKind(client.kind).modalities,
            "region_clients": None,
            "num_clients": None,
            "weights": None,
            "model_files": {},
            "metrics": {},
            "num_private_samples": None,
            "unwritten": Unwritten(1, 2),
        }
        deliveries.append(Checked(**values | (faulty if number == 0 else {})))
    return round_id, deliveries


async def states(world: World, round_id: str) -> tuple[list[str], list[int]]:
    """Of the parts in the round, and the positions that have a fold."""
    async with world.context.database.snapshot() as session:
        parts = await list_participations(session, round_id)
        stages = await list_stages(session, round_id)
    folds = sorted(stage.position for stage in stages if stage.kind == StageKind.FOLD)
    return [part.state for part, _ in parts], folds


async def test_deliveries_at_the_same_time_are_one_transaction(world: World) -> None:
    round_id, deliveries = await checked(world)
    begun: list[object] = []
    event.listen(world.context.database.engine.sync_engine, "begin", begun.append)
    accepted = await asyncio.gather(*map(world.context.acceptances.accept, deliveries))
    assert None not in accepted
    assert len(begun) == 1
    assert await states(world, round_id) == (["delivered"] * 3, [0, 1, 2])


async def test_a_delivery_that_cannot_be_written_takes_no_other_with_it(world: World) -> None:
    round_id, deliveries = await checked(world, model_files={"config.json": {"no": "entry"}})
    answers = await asyncio.gather(*map(world.context.acceptances.accept, deliveries), return_exceptions=True)
    assert isinstance(answers[0], Exception)
    assert not any(isinstance(answer, Exception) for answer in answers[1:])
    assert await states(world, round_id) == (["invited", "delivered", "delivered"], [1, 2])


async def test_a_delivery_counts_once(world: World) -> None:
    round_id, deliveries = await checked(world)
    assert await world.context.acceptances.accept(deliveries[1]) is not None
    assert await asyncio.gather(*map(world.context.acceptances.accept, deliveries[:2])) != [None, None]
    assert await world.context.acceptances.accept(deliveries[0]) is None
    assert await states(world, round_id) == (["delivered", "delivered", "invited"], [0, 1])


@pytest.mark.parametrize("same", [False, True])
async def test_equal_bytes_of_two_clients_are_one_artifact(world: World, same: bool) -> None:
    round_id, deliveries = await checked(world)
    if same:
        values = vars(deliveries[1]) | {"content": deliveries[0].content}
        deliveries[1] = Checked(**values)
    await asyncio.gather(*map(world.context.acceptances.accept, deliveries))
    async with world.context.database.snapshot() as session:
        sql = "SELECT count(*) FROM artifacts WHERE purpose = 'representations' AND client_id IS NOT NULL"
        count = (await (await session.connection()).exec_driver_sql(sql)).scalar()
    assert count == (2 if same else 3)
    assert await states(world, round_id) == (["delivered"] * 3, [0, 1, 2])
