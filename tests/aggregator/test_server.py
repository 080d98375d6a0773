"""The aggregator over real gRPC: what agents may and may not do, and a round walked through by a scripted distiller."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Iterator
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from tests.aggregator.world import INTERNAL, World, refused

from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.outbox import Outbox
from fedafd.artifacts.blocks import block_digests
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ParticipantKind, StageKind
from fedafd.domain.states import RoundState
from fedafd.persistence.client_repository import get_client, invite_client, revoke_client
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.round_repository import transition_round
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2, types_pb2
from fedafd.rpc.credentials import bearer_metadata


async def test_a_round_walks_from_queued_to_a_published_version(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    assert (await world.round(round_id)).state == "preparing"
    await world.prepare()
    task = await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    assert task.train.round_id == round_id
    assert [bundle.purpose for bundle in task.train.encoder_bundles] == ["encoder-bundle/image"]
    assert not any(artifact.key for artifact in task.train.public_set)
    receipt = await world.deliver(caller, round_id, world.reps())
    assert receipt.accepted
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=b"sed")
    assert (await world.round(round_id)).state == "distilling"
    await world.distil(StageKind.DISTIL, server_state=b"distilled")
    await world.distil(StageKind.EVALUATE, server_state=b"distilled", model__config=b"{}")
    assert (await world.round(round_id)).state == "completed"
    async with world.context.database.transaction() as session:
        assert (await get_federation(session, "trial")).current_version == 1


async def test_committing_again_gives_the_same_receipt(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    first = await world.deliver(caller, round_id, world.reps())
    again = await world.agents.CommitUpload(pb.CommitUploadRequest(round_id=round_id), metadata=caller)
    assert again == first


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num": 5}, r"shape \[5, 8\], expected \[6, 8\]"),
        ({"dim": 9}, r"shape \[6, 9\], expected \[6, 8\]"),
        ({"dtype": "float32"}, "dtype float32, expected float16"),
        ({"poison": True}, "not finite"),
        ({"sha256": "b" * 64}, "public set bbbb"),
    ],
    ids=["rows", "dimension", "dtype", "nan", "public set"],
)
async def test_a_bad_upload_is_rejected_with_its_reason_and_the_round_goes_on(
    world: World, options: dict[str, object], reason: str
) -> None:
    bad, good = await world.enrol("bad"), await world.enrol("good")
    round_id = await world.start_round()
    await world.prepare()
    receipt = await world.deliver(bad, round_id, world.reps(**options))  # type: ignore[arg-type]
    assert not receipt.accepted
    assert re.search(reason, receipt.rejection_reason)
    assert (await world.deliver(good, round_id, world.reps())).accepted
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=b"sed")
    assert (await world.round(round_id)).state == "distilling"


async def test_a_round_without_its_quorum_fails_and_leaves_the_version(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round(quorum={"min_clients": 1, "min_text_clients": 1, "min_image_clients": 0})
    await world.prepare()
    await world.deliver(caller, round_id, world.reps())
    await world.coordinate()
    row = await world.round(round_id)
    assert row.state == "failed"
    assert row.reason == "quorum not reached: 0 of 1 deliveries with text representations"


async def test_a_silent_client_is_dropped(world: World) -> None:
    await world.enrol("north")
    round_id = await world.start_round(idle_timeout_seconds=1)
    await world.prepare()
    await asyncio.sleep(1.1)
    await world.coordinate()
    assert (
        await world.round(round_id)
    ).reason == "quorum not reached: 0 of 1 deliveries; north: no sign of progress for 1 s"


async def test_a_round_without_its_quorum_says_why_its_clients_delivered_nothing(world: World) -> None:
    """Of seven clients with full disks and two that were asked in vain it told no more than that nobody delivered."""
    callers = [await world.enrol(f"site-{number}") for number in range(9)]
    round_id = await world.start_round(idle_timeout_seconds=1)
    await world.prepare()
    leave = pb.LeaveRoundRequest(round_id=round_id, leave_reason=pb.LEAVE_REASON_DISK_FULL)
    for caller in callers[:7]:
        await world.agents.LeaveRound(leave, metadata=caller)
    await asyncio.sleep(1.1)
    await world.coordinate()
    assert (await world.round(round_id)).reason == (
        "quorum not reached: 0 of 1 deliveries; site-0, site-1, site-2, site-3, site-4 and 2 more: its disk is full;"
        " the site frees some space or moves state_dir; site-7, site-8: no sign of progress for 1 s"
    )


async def test_who_could_tell_nothing_while_no_aggregator_was_there_has_not_been_silent(world: World) -> None:
    await world.enrol("north")
    round_id = await world.start_round(idle_timeout_seconds=1)
    await world.prepare()
    await asyncio.sleep(1.1)
    world.coordinator._leading_since = None  # as in a process that starts now
    await world.coordinate()
    assert (await world.round(round_id)).state == "collecting"
    await asyncio.sleep(1.1)
    await world.coordinate()
    assert (
        await world.round(round_id)
    ).reason == "quorum not reached: 0 of 1 deliveries; north: no sign of progress for 1 s"


async def test_a_completed_round_names_whom_it_went_on_without_and_why(world: World) -> None:
    callers = {name: await world.enrol(name) for name in ("bad", "good")}
    await world.enrol("silent")
    round_id = await world.start_round(idle_timeout_seconds=1)
    await world.prepare()
    await world.deliver(callers["bad"], round_id, world.reps(num=5))
    await world.deliver(callers["good"], round_id, world.reps())
    await asyncio.sleep(1.1)
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=b"sed")
    await world.distil(StageKind.DISTIL, server_state=b"distilled")
    await world.distil(StageKind.EVALUATE, server_state=b"distilled", model__config=b"{}")
    assert (await world.round(round_id)).state == "completed"
    async with world.context.database.snapshot() as session:
        events = await events_after(session, "trial", 0)
    (completed,) = [event.data for event in events if event.kind == "round.completed"]
    assert (completed["num_delivered"], completed["num_missing"]) == (1, 2)
    missing = {each["client"]: (each["state"], each["reason"], each["code"]) for each in completed["missing"]}
    assert missing["silent"][::2] == ("dropped", "silent")
    assert "no sign of progress" in missing["silent"][1]
    assert missing["bad"][0] == "rejected"
    assert "shape [5, 8]" in missing["bad"][1]


async def test_an_unknown_or_revoked_credential_is_refused(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=bearer_metadata("wrong"))
    refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
    caller = await world.enrol("north")
    async with world.context.database.transaction() as session:
        await revoke_client(session, await get_client(session, "trial", "north"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    assert "revoked" in refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


async def test_a_token_works_once_and_for_its_kind(world: World) -> None:
    async with world.context.database.transaction() as session:
        _, token = await invite_client(session, "trial", "north", ParticipantKind.IMAGE, timedelta(hours=1))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.Enroll(pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_TEXT))
    refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "conflict")
    request = pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_IMAGE)
    await world.agents.Enroll(request)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.Enroll(request)
    refused(raised, grpc.StatusCode.ALREADY_EXISTS, "already-enrolled")


async def test_a_client_downloads_only_what_its_task_names(world: World) -> None:
    caller = await world.enrol("north")
    await world.start_round()
    await world.prepare()

    async def download(content: bytes, offset: int) -> bytes:
        request = pb.DownloadArtifactRequest(sha256=sha256_of(content), offset_bytes=offset)
        return b"".join([part.data async for part in world.agents.DownloadArtifact(request, metadata=caller)])

    assert await download(b"reps", 0) == b"reps"
    assert await download(b"reps", 2) == b"ps"
    for foreign in (b"text", b"state"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await download(foreign, 0)
        refused(raised, grpc.StatusCode.PERMISSION_DENIED, "forbidden")


async def test_the_store_is_asked_once_for_what_is_downloaded_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, content = await world.enrol("north"), b"reps"
    await world.start_round()
    await world.prepare()
    asked: list[tuple[int, int | None]] = []
    stream = world.context.store.stream

    def counted(key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        asked.append((offset, length))
        return stream(key, offset, length)

    monkeypatch.setattr(world.context.store, "stream", counted)
    whole = pb.DownloadArtifactRequest(sha256=sha256_of(content))
    part = pb.DownloadArtifactRequest(sha256=sha256_of(content))
    part.ranges.add(offset_bytes=1, length_bytes=2)
    for request, expected in ((whole, content), (part, content[1:3]), (whole, content), (part, content[1:3])):
        got = b"".join([part.data async for part in world.agents.DownloadArtifact(request, metadata=caller)])
        assert got == expected
    assert asked == [(0, 4), (1, 2)]


async def test_a_client_asks_for_the_blocks_that_it_lacks(world: World) -> None:
    caller = await world.enrol("north")
    await world.start_round()
    await world.prepare()
    told = await world.agents.DescribeArtifact(pb.DescribeArtifactRequest(sha256=sha256_of(b"image")), metadata=caller)
    assert told.digests == block_digests([b"image"], told.block_bytes)

    async def ranges(content: bytes, *spans: tuple[int, int]) -> bytes:
        request = pb.DownloadArtifactRequest(sha256=sha256_of(content))
        request.ranges.extend(pb.ByteRange(offset_bytes=start, length_bytes=length) for start, length in spans)
        return b"".join([part.data async for part in world.agents.DownloadArtifact(request, metadata=caller)])

    assert await ranges(b"image", (0, 1), (2, 2)) == b"iag"
    for spans in ([(2, 2), (0, 1)], [(0, 6)], [(-1, 2)], [(1, 0)]):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ranges(b"image", *spans)
        refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")
    for foreign in (b"text", b"state"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.agents.DescribeArtifact(pb.DescribeArtifactRequest(sha256=sha256_of(foreign)), metadata=caller)
        refused(raised, grpc.StatusCode.PERMISSION_DENIED, "forbidden")


async def test_a_store_slower_than_a_call_is_read_to_the_end_and_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await world.enrol("north")
    await world.start_round()
    await world.prepare()
    reads, whole = [], world.context.store.stream

    def slow(key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        reads.append(key)
        time.sleep(1.5)
        yield from whole(key, offset, length)

    monkeypatch.setattr(world.context.store, "stream", slow)
    request = pb.DescribeArtifactRequest(sha256=sha256_of(b"image"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.DescribeArtifact(request, metadata=caller, timeout=0.5)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    told = await world.agents.DescribeArtifact(request, metadata=caller, timeout=60)
    assert told.digests == block_digests([b"image"], told.block_bytes)
    assert len(reads) == 1


async def test_blocks_of_an_object_that_is_damaged_are_not_told(world: World) -> None:
    caller = await world.enrol("north")
    await world.start_round()
    await world.prepare()
    (key,) = (found.key for found in world.context.store.list("") if found.key.endswith(sha256_of(b"image")))
    world.context.store.put(key, b"imagx")
    request = pb.DescribeArtifactRequest(sha256=sha256_of(b"image"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.DescribeArtifact(request, metadata=caller)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    world.context.store.put(key, b"image")
    told = await world.agents.DescribeArtifact(request, metadata=caller)
    assert told.digests == block_digests([b"image"], told.block_bytes)


async def test_a_chunk_without_its_hash_is_refused_and_stays_missing(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    begin = pb.BeginUploadRequest(
        round_id=round_id,
        upload_purpose=pb.UPLOAD_PURPOSE_REPRESENTATIONS,
        sha256=sha256_of(b"blob"),
        size_bytes=4,
        chunk_size_bytes=65536,
        chunk_sha256=[hashlib.sha256(b"blob").hexdigest()],
    )
    begun = await world.agents.BeginUpload(begin, metadata=caller)
    message = pb.UploadChunksRequest(upload_id=begun.upload_id, index=0, data=b"blub")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.UploadChunks(iter([message]), metadata=caller)
    refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")
    assert list((await world.agents.BeginUpload(begin, metadata=caller)).missing_chunks) == [0]


async def test_nothing_is_taken_for_a_round_that_does_not_wait(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    progress = await world.agents.ReportProgress(pb.ReportProgressRequest(round_id=round_id), metadata=caller)
    assert not progress.keep_going
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.LeaveRound(pb.LeaveRoundRequest(round_id=round_id), metadata=caller)
    refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "round-closed")


async def test_a_stage_is_claimed_by_one_distiller_at_a_time(world: World) -> None:
    await world.start_round()
    (_, stage_id) = world.sent[-1]
    request = distillation_pb2.ClaimStageRequest(stage_id=stage_id, worker="a")
    for _ in range(2):  # its answer may be lost
        assert (await world.distillers.ClaimStage(request, metadata=INTERNAL)).token == 1
    request.worker = "b"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.distillers.ClaimStage(request, metadata=INTERNAL)
    refused(raised, grpc.StatusCode.ABORTED, "stage-lost")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.distillers.ClaimStage(request, metadata=bearer_metadata("wrong"))
    refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


async def test_a_stage_that_fails_three_times_fails_its_round(world: World) -> None:
    round_id = await world.start_round()
    for _ in range(3):
        stage_id = world.sent[-1][1]
        claimed = await world.distillers.ClaimStage(
            distillation_pb2.ClaimStageRequest(stage_id=stage_id), metadata=INTERNAL
        )
        failure = distillation_pb2.FailStageRequest(
            stage_id=stage_id, token=claimed.token, reason="store away", retryable=True
        )
        await world.distillers.FailStage(failure, metadata=INTERNAL)
        await world.coordinate()
    row = await world.round(round_id)
    assert (row.state, row.reason) == ("failed", "stage prepare failed: store away")


async def test_a_second_coordinator_waits_and_then_fences_the_first(world: World) -> None:
    database = world.context.database
    first = world.coordinator
    second = Coordinator(world.context, Outbox(database, lambda kind, stage: None), lease_seconds=0.01)
    await world.enrol("north")
    round_id = await world.start_round()
    assert not await second.look()
    await first._release()
    stale = await world.round(round_id)
    await world.prepare()
    async with database.transaction() as session:
        assert not await transition_round(session, stale, RoundState.COLLECTING, token=1, actor="stale")
