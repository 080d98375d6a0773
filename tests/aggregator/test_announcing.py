"""Blobs that are announced at the same time are taken down together, and each client's limits are its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sqlalchemy import event
from tests.aggregator.world import World

from fedafd.aggregator.announcing import Announcement
from fedafd.domain.errors import UploadError
from fedafd.persistence.participation_repository import list_participations


async def announcements(world: World, *names: str) -> list[Announcement]:
    """One of each client."""
    for name in names:
        await world.enrol(name)
    round_id = await world.start_round()
    await world.prepare()
    async with world.context.database.snapshot() as session:
        clients = [client for _, client in await list_participations(session, round_id)]
    first = Announcement(
        round_id=round_id,
        client_id=clients[0].id,
        purpose="representations",
        sha256="1" * 64,
        size_bytes=10,
        chunk_size_bytes=1 << 20,
        chunk_sha256=("1" * 64,),
        quota_bytes=25,
    )
    return [replace(first, client_id=client.id) for client in clients]


async def test_what_is_announced_at_once_is_one_transaction_and_the_same_blob_one_row(world: World) -> None:
    north, south = await announcements(world, "north", "south")
    begun: list[object] = []
    event.listen(world.context.database.engine.sync_engine, "begin", begun.append)
    taken = await asyncio.gather(*map(world.context.announcements.take, (north, south, replace(north))))
    assert len(begun) == 1
    assert taken[0].row.id == taken[2].row.id != taken[1].row.id
    assert [one.is_new for one in taken] == [True, True, False]
    again = await world.context.announcements.take(replace(south))
    assert again.row.id == taken[1].row.id
    assert not again.is_new


async def test_a_clients_limit_holds_for_what_it_announces_at_once_and_for_nobody_else(world: World) -> None:
    north, south = await announcements(world, "north", "south")
    many = [replace(north, sha256=f"{number:064x}") for number in range(3)]
    answers = await asyncio.gather(*map(world.context.announcements.take, (*many, south)), return_exceptions=True)
    assert [isinstance(answer, UploadError) for answer in answers] == [False, False, True, False]


async def test_a_blob_that_is_cut_otherwise_is_refused(world: World) -> None:
    north, _ = await announcements(world, "north", "south")
    other = replace(north, chunk_size_bytes=1 << 19)
    answers = await asyncio.gather(*map(world.context.announcements.take, (north, other)), return_exceptions=True)
    assert [isinstance(answer, UploadError) for answer in answers] == [False, True]
