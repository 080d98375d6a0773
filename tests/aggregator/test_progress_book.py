"""Progress is written by one transaction after the other, and not lost at the end of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.aggregator.world import World

from fedafd.aggregator import progress as module
from fedafd.persistence.participation_repository import list_participations, write_progress
from fedafd.proto.v1 import aggregator_pb2 as pb


class SlowDatabase:
    """`write_progress`, which waits until it may go on; its transaction is open meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self._write = write_progress
        monkeypatch.setattr(module, "write_progress", self._slowly)

    async def _slowly(self, session: Any, rows: Sequence[dict[str, Any]]) -> None:
        self.begun.set()
        await self.may_end.wait()
        await self._write(session, rows)


async def reported(world: World, round_id: str) -> float:
    async with world.context.database.snapshot() as session:
        ((part, _),) = await list_participations(session, round_id)
    return part.progress


@pytest.mark.parametrize("ends", [False, True])
async def test_what_is_being_written_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    book, slow = world.context.progress, SlowDatabase(monkeypatch)
    report = pb.ReportProgressRequest(round_id=round_id, fraction=0.5, work_done=1)
    assert (await world.agents.ReportProgress(report, metadata=caller)).keep_going
    async with asyncio.timeout(30):
        await slow.begun.wait()  # the book's own writing has taken what was noted
        waits = asyncio.ensure_future(book.close() if ends else book.flush())
        await asyncio.sleep(0.1)
        assert not waits.done()
        slow.may_end.set()
        await waits
    assert await reported(world, round_id) == 0.5
