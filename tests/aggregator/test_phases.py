"""A part in a round tells when its download ended, and when its upload began: the first moment of each stays."""

from __future__ import annotations

from datetime import datetime

import pytest
from tests.aggregator.world import World

from fedafd.persistence.participation_repository import list_participations
from fedafd.proto.v1 import aggregator_pb2 as pb

Moments = tuple[datetime | None, datetime | None]


async def moments(world: World, round_id: str, *, flush: bool = True) -> Moments:
    if flush:
        await world.context.progress.flush()
    async with world.context.database.snapshot() as session:
        ((part, _),) = await list_participations(session, round_id)
    return part.trains_since, part.sends_since


async def report(world: World, caller: tuple[tuple[str, str], ...], round_id: str, doing: int) -> None:
    request = pb.ReportProgressRequest(round_id=round_id, fraction=0.5, doing=doing)  # type: ignore[arg-type]
    assert (await world.agents.ReportProgress(request, metadata=caller)).keep_going


@pytest.mark.parametrize("written_between", [True, False])
async def test_each_phase_has_its_first_moment(world: World, written_between: bool) -> None:
    """Also where a site is so quick that nothing is written before its delivery."""
    world.context.progress._seconds = 3600.0  # nothing is written by itself
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    await report(world, caller, round_id, pb.CLIENT_ACTIVITY_DOWNLOADING)
    assert await moments(world, round_id, flush=written_between) == (None, None)
    await report(world, caller, round_id, pb.CLIENT_ACTIVITY_READING_DATA)
    first = (await moments(world, round_id))[0] if written_between else None
    await report(world, caller, round_id, pb.CLIENT_ACTIVITY_TRAINING)
    await world.deliver(caller, round_id, world.reps())
    trains, sends = await moments(world, round_id, flush=False)
    assert trains is not None
    assert sends is not None
    assert trains <= sends
    assert first in (trains, None)
    async with world.context.database.snapshot() as session:
        ((part, _),) = await list_participations(session, round_id)
    assert part.settled_at is not None
    assert sends <= part.settled_at
