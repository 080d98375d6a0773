"""A server state that is damaged or lost does not end the federation: a round goes back to the newest that is whole."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from tests.aggregator.world import INTERNAL, World, refused

from fedafd.control_plane.models.service import roll_back
from fedafd.distiller.tasks import StageRunner
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import StageKind
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import ModelVersionRow, RoundRow
from fedafd.persistence.round_repository import get_round
from fedafd.persistence.stage_repository import list_stages
from fedafd.proto.v1 import aggregator_pb2 as agents_pb
from fedafd.proto.v1 import distillation_pb2 as pb


async def add_versions(world: World, count: int) -> list[str]:
    """Versions 1 to `count`, the last of them current; the keys of their states."""
    keys = []
    round_ids = [await world.start_round() for _ in range(count)]
    async with world.context.database.transaction() as session:
        for number, round_id in enumerate(round_ids, start=1):
            content = f"state {number}".encode()
            key = f"federations/trial/rounds/{number}/server-state/{sha256_of(content)}"
            world.context.store.put(key, content)
            keys.append(key)
            version = ModelVersionRow(
                federation_id="trial",
                version=number,
                round_id=round_id,
                parent_version=number - 1 or None,
                state_key=key,
                state_sha256=sha256_of(content),
                metrics={},
            )
            session.add(version)
        (await get_federation(session, "trial")).current_version = count
    for round_id in round_ids:
        async with world.context.database.transaction() as session:
            row = await session.get(RoundRow, round_id)
            assert row is not None
            row.state = "cancelled"
    world.sent.clear()
    return keys


async def publish_round(world: World, round_id: str, content: bytes) -> ModelVersionRow:
    """The version of a round that goes on from its base, as its evaluation publishes it."""
    async with world.context.database.transaction() as session:
        row = await get_round(session, round_id)
        key = f"federations/trial/rounds/{row.number}/server-state/{sha256_of(content)}"
        world.context.store.put(key, content)
        made = ModelVersionRow(
            federation_id="trial",
            version=row.number,
            round_id=round_id,
            parent_version=row.base_version,
            state_key=key,
            state_sha256=sha256_of(content),
            metrics={},
        )
        session.add(made)
        row.state = "completed"
        (await get_federation(session, "trial")).current_version = row.number
    world.sent.clear()
    return made


async def claimed_state(world: World) -> str:
    """Key of the state that the newest preparing stage starts from."""
    request = pb.ClaimStageRequest(stage_id=await announced(world), worker="script")
    claimed = await world.distillers.ClaimStage(request, metadata=INTERNAL)
    (state,) = (each for each in claimed.inputs if each.name == "server-state")
    key: str = state.artifact.key
    return key


async def rolled_back(world: World) -> int:
    async with world.context.database.transaction() as session:
        return (await roll_back(session, "trial", "operator")).version


async def announced(world: World) -> str:
    return [stage for kind, stage in world.sent if kind is StageKind.PREPARE][-1]


async def test_damaged_and_lost_states_are_passed_over_to_the_newest_whole_one(
    world: World, runner: StageRunner
) -> None:
    keys = await add_versions(world, 3)
    world.context.store.put(keys[2], b"flipped")
    world.context.store.delete(keys[1])
    round_id = await world.start_round()
    for _ in range(2):
        await asyncio.to_thread(runner.run, await announced(world))
        await world.coordinate()
    claimed = await world.distillers.ClaimStage(
        pb.ClaimStageRequest(stage_id=await announced(world), worker="script"), metadata=INTERNAL
    )
    (state,) = claimed.inputs
    assert (state.name, state.artifact.key) == ("server-state", keys[0])
    row = await world.round(round_id)
    assert (row.state, row.base_version) == ("preparing", 1)
    async with world.context.database.transaction() as session:
        stages = [stage for stage in await list_stages(session, round_id) if stage.kind == "prepare"]
        events = [event for event in await events_after(session, "trial", 0) if event.kind == "model.state_unusable"]
    assert [stage.failures for stage in stages] == [0]
    assert [(event.data["version"], event.data["goes_on_from"]) for event in events] == [(3, 2), (2, 1)]


async def test_a_rollback_after_damage_goes_back_behind_it_and_the_next_round_runs_from_there(
    world: World, runner: StageRunner
) -> None:
    keys = await add_versions(world, 3)
    world.context.store.put(keys[2], b"flipped")
    fourth = await world.start_round()
    await asyncio.to_thread(runner.run, await announced(world))
    await world.coordinate()
    assert await claimed_state(world) == keys[1]
    assert (await publish_round(world, fourth, b"state 4")).parent_version == 2

    assert await rolled_back(world) == 2  # over the damaged one
    fifth = await world.start_round()
    assert await claimed_state(world) == keys[1]
    assert (await world.round(fifth)).base_version == 2


async def test_damage_after_a_rollback_does_not_bring_back_what_was_left(world: World, runner: StageRunner) -> None:
    keys = await add_versions(world, 3)
    assert [await rolled_back(world) for _ in range(2)] == [2, 1]
    made = await publish_round(world, await world.start_round(), b"state 4")
    assert made.parent_version == 1
    world.context.store.put(made.state_key, b"flipped")
    round_id = await world.start_round()
    await asyncio.to_thread(runner.run, await announced(world))
    await world.coordinate()
    assert await claimed_state(world) == keys[0]
    assert (await world.round(round_id)).base_version == 1


async def test_a_client_whose_deliveries_the_store_loses_time_and_again_is_left_out(world: World) -> None:
    caller = await world.enrol("alice")
    round_id = await world.start_round()
    await world.prepare()
    for number in range(1, 4):
        assert (await world.deliver(caller, round_id, world.reps())).accepted
        await world.coordinate()
        stage_id = [stage for kind, stage in world.sent if kind is StageKind.FOLD][-1]
        claim = await world.distillers.ClaimStage(
            pb.ClaimStageRequest(stage_id=stage_id, worker="script"), metadata=INTERNAL
        )
        request = pb.FailStageRequest(stage_id=stage_id, token=claim.token, reason="lost", bad_input="representations")
        await world.distillers.FailStage(request, metadata=INTERNAL)
        task = await world.agents.FetchTask(agents_pb.FetchTaskRequest(), metadata=caller)
        assert task.HasField("train") is (number < 3)
    await world.coordinate()
    row = await world.round(round_id)
    assert row.state == "failed"
    assert row.reason is not None
    assert row.reason.startswith("quorum not reached: 0 of 1 deliveries; alice: ")


async def test_a_chunk_that_is_damaged_in_the_store_is_asked_for_again(world: World) -> None:
    caller = await world.enrol("alice")
    round_id = await world.start_round()
    await world.prepare()
    blob = world.reps()
    upload_id = await world.upload(caller, round_id, blob)
    store = world.context.store
    (chunk,) = store.list("federations/trial/rounds/1/chunks/")
    store.put(chunk.key, b"x" + store.get(chunk.key)[1:])
    request = agents_pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id])
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.CommitUpload(request, metadata=caller)
    refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "upload-incomplete")
    assert (await world.deliver(caller, round_id, blob)).accepted


async def test_where_no_state_is_whole_the_round_fails_and_names_the_object(world: World, runner: StageRunner) -> None:
    (key,) = await add_versions(world, 1)
    world.context.store.delete(key)
    round_id = await world.start_round()
    await asyncio.to_thread(runner.run, await announced(world))
    await world.coordinate()
    row = await world.round(round_id)
    assert row.state == "failed"
    assert row.reason is not None
    assert key in row.reason
