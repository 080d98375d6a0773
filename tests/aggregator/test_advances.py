"""Progress advances: who repeats itself, creeps, or moves the same bytes again is dropped at the idle timeout."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update
from tests.aggregator.world import World

from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import UploadPurpose
from fedafd.domain.states import ParticipationState
from fedafd.persistence.models import ParticipationRow, utc_now
from fedafd.persistence.participation_repository import list_participations
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.rpc.codes import wire_purpose
from fedafd.rpc.sessions import session_metadata

IDLE_SECONDS = 60.0
Caller = tuple[tuple[str, str], ...]


class Site:
    """A site in a round that collects."""

    def __init__(self, world: World, caller: Caller, round_id: str) -> None:
        self.world, self.caller, self.round_id = world, caller, round_id

    async def tell(self, fraction: float, *, work: int, doing: int = pb.CLIENT_ACTIVITY_TRAINING) -> None:
        request = pb.ReportProgressRequest(
            round_id=self.round_id,
            fraction=fraction,
            doing=doing,  # type: ignore[arg-type]
            work_done=work,
        )
        assert (await self.world.agents.ReportProgress(request, metadata=self.caller)).keep_going

    async def restart(self, number: int) -> None:
        old = dict(self.caller)["fedafd-session"]
        bearer = next(pair for pair in self.caller if pair[0] == "authorization")
        self.caller = (bearer, *session_metadata(f"{number:016x}", [old]))
        await self.world.agents.FetchTask(pb.FetchTaskRequest(), metadata=self.caller)

    async def after(self, seconds: float) -> None:
        """As if all had happened so much earlier."""
        part = await self.part()
        ago = timedelta(seconds=seconds)
        moments = {"last_progress_at": part.last_progress_at - ago}
        if part.advanced_at is not None:
            moments["advanced_at"] = part.advanced_at - ago
        async with self.world.context.database.transaction() as session:
            await session.execute(update(ParticipationRow).values(**moments))

    async def part(self) -> ParticipationRow:
        await self.world.context.progress.flush()
        async with self.world.context.database.snapshot() as session:
            ((part, _),) = await list_participations(session, self.round_id)
        return part

    async def is_silent(self) -> bool:
        """Whether its last progress is longer ago than the idle timeout."""
        return (await self.part()).last_progress_at < utc_now() - timedelta(seconds=IDLE_SECONDS)


@pytest.fixture
async def site(world: World) -> Site:
    world.has_led_for_long()
    caller = await world.enrol("north")
    round_id = await world.start_round(idle_timeout_seconds=IDLE_SECONDS)
    await world.prepare()
    return Site(world, caller, round_id)


async def test_who_repeats_its_report_is_dropped_at_the_idle_timeout(site: Site) -> None:
    await site.tell(0.4, work=17)
    for _ in range(3):
        await site.after(25)
        await site.tell(0.4, work=17)
    await site.world.coordinate()
    part = await site.part()
    assert (part.state, part.reason_code) == (ParticipationState.DROPPED.value, "silent")


async def test_a_share_that_grows_without_work_is_no_progress(site: Site) -> None:
    await site.tell(0.4, work=17)
    await site.after(IDLE_SECONDS + 1)
    await site.tell(0.9, work=17)
    assert await site.is_silent()


async def test_work_that_goes_on_at_one_share_is_progress(site: Site) -> None:
    """As where a slow machine encodes its data for an hour."""
    for work in range(1, 40):
        await site.tell(0.06, work=work, doing=pb.CLIENT_ACTIVITY_READING_DATA)
        assert not await site.is_silent()
        await site.after(IDLE_SECONDS + 1)


async def test_an_agent_that_does_not_count_may_repeat_itself_for_half_an_hour_and_creep_no_longer(site: Site) -> None:
    await site.tell(0.06, work=0)
    for minute in range(29):
        await site.after(60.5)
        await site.tell(0.06 + minute * 1e-9, work=0)
        assert not await site.is_silent()
    await site.after(60.5)
    await site.tell(0.06 + 30e-9, work=0)
    assert await site.is_silent()
    await site.tell(0.07, work=0)
    assert not await site.is_silent()


async def test_an_agent_that_restarts_counts_anew_but_not_for_ever(site: Site) -> None:
    await site.tell(0.8, work=5_000)
    for number in range(1, 12):
        await site.restart(number)
        await site.after(IDLE_SECONDS + 1)
        await site.tell(0.1, work=3)
        assert await site.is_silent() == (number >= 8)
        if number < 8:
            await site.after(IDLE_SECONDS + 1)
            await site.tell(0.1, work=4)
            assert not await site.is_silent()


async def test_waiting_for_a_disk_is_excused_for_ten_minutes(site: Site) -> None:
    await site.tell(0.9, work=50)
    for _ in range(9):
        await site.after(61)
        await site.tell(0.95, work=50, doing=pb.CLIENT_ACTIVITY_WAITING_FOR_DISK)
        assert not await site.is_silent()
    await site.after(61)
    await site.tell(0.95, work=50, doing=pb.CLIENT_ACTIVITY_WAITING_FOR_DISK)
    assert await site.is_silent()


async def test_a_count_beyond_all_numbers_is_taken_for_the_largest(site: Site) -> None:
    await site.tell(0.5, work=2**64 - 1)
    await site.after(IDLE_SECONDS + 1)
    await site.tell(0.5, work=2**63)
    assert await site.is_silent()


async def test_a_chunk_that_comes_again_is_no_progress(site: Site) -> None:
    blob = bytes(200_000)
    chunks = [blob[start : start + 65536] for start in range(0, len(blob), 65536)]
    begin = pb.BeginUploadRequest(
        round_id=site.round_id,
        upload_purpose=wire_purpose(UploadPurpose.REPRESENTATIONS),
        sha256=sha256_of(blob),
        size_bytes=len(blob),
        chunk_size_bytes=65536,
        chunk_sha256=[sha256_of(chunk) for chunk in chunks],
    )
    begun = await site.world.agents.BeginUpload(begin, metadata=site.caller)

    async def send(index: int) -> None:
        def messages() -> Iterator[pb.UploadChunksRequest]:
            yield pb.UploadChunksRequest(upload_id=begun.upload_id, index=index, data=chunks[index])

        await site.after(IDLE_SECONDS + 1)
        await site.world.agents.UploadChunks(messages(), metadata=site.caller)

    for index, silent in ((0, False), (1, False), (1, True), (0, True), (2, False)):
        await send(index)
        assert await site.is_silent() == silent


async def test_an_artifact_that_comes_down_a_fourth_time_is_no_progress(site: Site) -> None:
    task = (await site.world.agents.FetchTask(pb.FetchTaskRequest(), metadata=site.caller)).train
    request = pb.DownloadArtifactRequest(sha256=task.public_set[1].sha256)
    for time in range(5):
        await site.after(IDLE_SECONDS + 1)
        async for _ in site.world.agents.DownloadArtifact(request, metadata=site.caller):
            pass
        assert await site.is_silent() == (time >= 3)
    assert (await site.part()).bytes_down == 5 * task.public_set[1].size_bytes
