"""What one client takes of the aggregator at once is bounded, and no other client notices that it tries for more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import event
from tests.aggregator.world import World, refused

from fedafd.aggregator.callers import Callers
from fedafd.aggregator.delivery import commit_delivery
from fedafd.aggregator.limits import ByteBudget, CallCaps, SlowRefusals, Turns
from fedafd.domain.errors import TooManyRequestsError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import UploadPurpose
from fedafd.domain.pacing import Pace
from fedafd.domain.secrets import hash_secret
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.client_repository import get_client, revoke_client
from fedafd.persistence.round_repository import get_round
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.rpc.codes import wire_purpose
from fedafd.rpc.status import error_from_rpc
from fedafd.storage.folder import FolderStore

Caller = tuple[tuple[str, str], ...]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """The database with the fewest connections to give away."""
    return f"sqlite:///{tmp_path}/test.db"


async def opened(world: World, *names: str, **config: object) -> tuple[str, list[Caller]]:
    """A round that collects, and its clients."""
    callers = [await world.enrol(name) for name in names]
    round_id = await world.start_round(**config)
    await world.prepare()
    return round_id, callers


# -- calls -----------------------------------------------------------------------------------------------------------


async def waits(world: World, caller: Caller, known: int) -> grpc.StatusCode:
    """Poll for a minute; how it ended."""
    request = pb.FetchTaskRequest(wait=Duration(seconds=60), known_revision=known)
    call = world.agents.FetchTask(request, metadata=caller)
    with suppress(grpc.aio.AioRpcError):
        await call
    answer: grpc.StatusCode = await call.code()
    return answer


async def test_six_hundred_polls_of_one_client_leave_one_waiting_and_the_others_reports_unhurt(world: World) -> None:
    round_id, (greedy, honest) = await opened(world, "greedy", "honest")
    world.context.refusals._pace = Pace(per_second=200, burst=1)  # at ten a second, 592 refusals are a minute
    known = (await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=greedy)).revision
    begun: Counter[str] = Counter()
    engines = (world.context.database.engine, world.context.database.reading_engine)
    for engine in engines:
        event.listen(engine.sync_engine, "begin", lambda _: begun.update(["transactions"]))
    polls = [asyncio.ensure_future(waits(world, greedy, known)) for _ in range(600)]
    for step in range(5):
        report = pb.ReportProgressRequest(round_id=round_id, fraction=step / 10)
        assert (await world.agents.ReportProgress(report, metadata=honest, timeout=30)).keep_going
    ended = asyncio.as_completed(polls, timeout=30)
    ends = {await next(ended) for _ in range(599)}
    assert ends <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    (left,) = (poll for poll in polls if not poll.done())
    assert world.context.database.reading_engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert begun["transactions"] <= 620  # each poll looks once
    left.cancel()


async def test_a_new_poll_ends_the_one_before(world: World) -> None:
    _, (site,) = await opened(world, "site")
    known = (await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=site)).revision
    first = asyncio.ensure_future(waits(world, site, known))
    await asyncio.sleep(0.3)
    assert not first.done()
    second = asyncio.ensure_future(waits(world, site, known))
    async with asyncio.timeout(10):
        assert await first is grpc.StatusCode.OK
    assert not second.done()
    second.cancel()


def test_a_credential_has_so_many_calls_at_once_and_another_its_own() -> None:
    caps = CallCaps(most=2)
    with caps.one_of("a"):
        with caps.one_of("a"):
            with (
                pytest.raises(TooManyRequestsError, match="2 calls with this credential run already"),
                caps.one_of("a"),
            ):
                pass
            with caps.one_of("b"):
                pass
        with caps.one_of("a"):
            pass


def test_calls_beyond_a_burst_wait_for_their_rate_and_others_do_not() -> None:
    pace = Pace(per_second=10, burst=5)
    assert [pace.wait_seconds("a", 0.0) for _ in range(8)] == pytest.approx([0, 0, 0, 0, 0, 0.1, 0.2, 0.3])
    assert pace.wait_seconds("b", 0.0) == 0
    assert pace.wait_seconds("a", 60.0) == 0


async def test_a_client_that_calls_as_fast_as_it_can_is_slowed_and_others_are_not(world: World) -> None:
    round_id, (greedy, honest) = await opened(world, "greedy", "honest")
    report, loop = pb.ReportProgressRequest(round_id=round_id, fraction=0.5), asyncio.get_running_loop()

    async def seconds(caller: Caller, calls: int) -> float:
        begun = loop.time()
        for _ in range(calls):
            await world.agents.ReportProgress(report, metadata=caller)
        return loop.time() - begun

    await seconds(greedy, 1)
    world.context.pace._ahead = 0.0
    assert await seconds(greedy, 12) > 0.5
    assert world.context.pace.wait_seconds("honest", loop.time()) < 0.1
    await seconds(honest, 1)


async def test_a_credential_is_hashed_once_in_a_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    round_id, (site,) = await opened(world, "site")
    hashed: list[str] = []

    def hash_and_note(secret: str) -> str:
        hashed.append(secret)
        return hash_secret(secret)

    monkeypatch.setattr("fedafd.aggregator.credentials.hash_secret", hash_and_note)
    await world.agents.ReportProgress(pb.ReportProgressRequest(round_id=round_id), metadata=site)
    assert hashed == [dict(site)["authorization"].removeprefix("Bearer ")]


async def test_a_call_too_many_is_refused_slowly(world: World) -> None:
    _, (site,) = await opened(world, "site")
    loop = asyncio.get_running_loop()
    known = (await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=site)).revision
    with world.context.calls.one_of(hash_secret(dict(site)["authorization"].removeprefix("Bearer "))):
        world.context.calls._most = 1
        begun = loop.time()
        assert await waits(world, site, known) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert loop.time() - begun > 0.9


async def test_many_refusals_of_one_credential_follow_each_other_and_delay_no_other_s() -> None:
    """600 calls too many, refused after 3 s each, were 200 refusals a second; more calls are no more refusals."""
    refusals, loop = (
        SlowRefusals(least_seconds=0.1, per_second=50, most_seconds=0.8, most=40),
        asyncio.get_running_loop(),
    )
    begun, ends = loop.time(), []

    async def refused_call(credential: str) -> float:
        await refusals.wait(credential)
        ends.append(credential)
        return loop.time() - begun

    first, many, other, beyond = await asyncio.gather(
        refused_call("greedy"),
        asyncio.gather(*(refused_call("greedy") for _ in range(38))),
        refused_call("other"),
        refused_call("greedy"),
    )
    assert first >= 0.1 and other >= 0.1  # a lower bound alone: the machine may be busy
    assert many == sorted(many) and many[-1] >= 36 / 50
    assert beyond < first and ends[0] == "greedy" and ends.index("other") < 12


# -- streams ---------------------------------------------------------------------------------------------------------


async def _shut_by_round(world: World, round_id: str) -> None:
    async with world.context.database.transaction() as session:
        (await get_round(session, round_id)).state = "failed"
    world.context.wakeups.changed("trial")


async def _shut_by_revocation(world: World, round_id: str) -> None:
    async with world.context.database.transaction() as session:
        await revoke_client(session, await get_client(session, "trial", "site"))
    world.context.wakeups.changed("trial")


@pytest.mark.parametrize(
    ("shut", "status"),
    [
        (_shut_by_round, grpc.StatusCode.FAILED_PRECONDITION),
        (_shut_by_revocation, grpc.StatusCode.UNAUTHENTICATED),
    ],
    ids=["round closed", "client revoked"],
)
async def test_a_stream_of_chunks_ends_with_its_round_and_with_its_client(
    world: World,
    shut: Callable[[World, str], Awaitable[None]],
    status: grpc.StatusCode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    round_id, (site,) = await opened(world, "site")
    chunks = [bytes([number]) * 65536 for number in range(3)]
    blob = b"".join(chunks)
    begin = pb.BeginUploadRequest(
        round_id=round_id,
        upload_purpose=wire_purpose(UploadPurpose.REPRESENTATIONS),
        sha256=sha256_of(blob),
        size_bytes=len(blob),
        chunk_size_bytes=65536,
        chunk_sha256=[sha256_of(chunk) for chunk in chunks],
    )
    begun = await world.agents.BeginUpload(begin, metadata=site)
    stored = asyncio.Event()
    monkeypatch.setattr(world.context.metrics.bytes_in, "inc", lambda _: stored.set())

    async def messages() -> AsyncIterator[pb.UploadChunksRequest]:
        yield pb.UploadChunksRequest(upload_id=begun.upload_id, index=0, data=chunks[0])
        await stored.wait()
        await shut(world, round_id)
        for index in (1, 2):
            yield pb.UploadChunksRequest(upload_id=begun.upload_id, index=index, data=chunks[index])

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.UploadChunks(messages(), metadata=site, timeout=30)
    assert raised.value.code() is status
    chunks_there = [found.key for found in world.context.store.list("federations/") if "/chunks/" in found.key]
    assert [world.context.store.get(key) for key in chunks_there] == [chunks[0]]


# -- commits ---------------------------------------------------------------------------------------------------------


async def test_commits_of_one_client_that_overlap_all_get_the_same_receipt(world: World) -> None:
    round_id, (site,) = await opened(world, "site")
    upload_id = await world.upload(site, round_id, world.reps())
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id])
    first, *others = await asyncio.gather(*(world.agents.CommitUpload(request, metadata=site) for _ in range(8)))
    assert first.accepted
    assert all(other == first for other in others)


class _Overtaken(FolderStore):
    """A store in whose first reading of an upload another aggregator commits the same delivery, clean-up included."""

    def __init__(self, root: Path, commit: Callable[[], object]) -> None:
        super().__init__(root)
        self._commit: Callable[[], object] | None = commit

    def arrived_file(self, key: str, scratch: Path, /) -> Path:
        if self._commit is not None:
            commit, self._commit = self._commit, None
            commit()
        return super().arrived_file(key, scratch)


async def test_a_commit_that_another_aggregator_overtakes_gets_its_receipt(world: World, tmp_path: Path) -> None:
    round_id, (site,) = await opened(world, "site")
    upload_id = await world.upload(site, round_id, world.reps())
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id])
    async with world.context.database.snapshot() as session:
        client = CallingClient.of(await get_client(session, "trial", "site"))
    loop = asyncio.get_running_loop()

    def overtake() -> object:
        return asyncio.run_coroutine_threadsafe(commit_delivery(world.context, client, request), loop).result(20)

    store = _Overtaken(tmp_path / "store", overtake)
    slow = replace(world.context, store=store, commits=Turns(), callers=Callers(), in_memory=ByteBudget())
    receipt = await commit_delivery(slow, client, request)
    assert receipt.accepted
    assert receipt == await world.agents.CommitUpload(request, metadata=site)


async def test_nothing_of_a_rejected_delivery_stays_in_the_store(world: World) -> None:
    round_id, (site,) = await opened(world, "site")
    before = {found.key for found in world.context.store.list("federations/")}
    assert not (await world.deliver(site, round_id, world.reps(poison=True))).accepted
    assert {found.key for found in world.context.store.list("federations/")} == before


async def test_a_client_announces_no_more_bytes_in_a_round_than_its_quota(world: World) -> None:
    round_id, (site, other) = await opened(
        world, "site", "other", max_upload_bytes=1 << 20, accept_personalized_models=False
    )

    def begin(number: int) -> pb.BeginUploadRequest:
        return pb.BeginUploadRequest(
            round_id=round_id,
            upload_purpose=wire_purpose(UploadPurpose.REPRESENTATIONS),
            sha256=f"{number:064x}",
            size_bytes=1 << 20,
            chunk_size_bytes=1 << 20,
            chunk_sha256=["0" * 64],
        )

    for number in range(2):
        await world.agents.BeginUpload(begin(number), metadata=site)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.BeginUpload(begin(2), metadata=site)
    assert "bytes were announced in this round already" in refused(
        raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload"
    )
    assert (await world.agents.BeginUpload(begin(0), metadata=site)).missing_chunks == [0]
    assert (await world.agents.BeginUpload(begin(0), metadata=other)).missing_chunks == [0]


# -- memory ----------------------------------------------------------------------------------------------------------


async def test_deliveries_in_memory_stay_within_the_budget_and_take_turns() -> None:
    budget, held, most = ByteBudget(100, wait_seconds=30), 0, 0

    async def delivery(size: int) -> None:
        nonlocal held, most
        async with budget.room_for(size):
            held += size
            most = max(most, held)
            await asyncio.sleep(0.001)
            held -= size

    await asyncio.gather(*(delivery(size) for size in (40, 40, 40, 90, 10, 100, 60, 30) * 4))
    assert 0 < most <= 100


async def test_a_delivery_beyond_the_budget_runs_alone() -> None:
    budget = ByteBudget(100, wait_seconds=0.05)
    async with budget.room_for(1000):
        with pytest.raises(TooManyRequestsError, match="commit again"):
            async with budget.room_for(1):
                pass
    async with budget.room_for(100):
        pass


async def test_a_commit_without_room_is_refused_so_that_the_agent_repeats_it(world: World) -> None:
    round_id, (site,) = await opened(world, "site")
    upload_id = await world.upload(site, round_id, world.reps())
    request = pb.CommitUploadRequest(round_id=round_id, upload_ids=[upload_id])
    world.context.in_memory._wait_seconds = 0.1
    async with world.context.in_memory.room_for(1 << 40):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.agents.CommitUpload(request, metadata=site)
    refused(raised, grpc.StatusCode.RESOURCE_EXHAUSTED, "too-many-requests")
    assert error_from_rpc(raised.value).retryable
    assert (await world.agents.CommitUpload(request, metadata=site)).accepted


async def test_turns_are_forgotten_when_nobody_has_or_wants_one() -> None:
    turns, order = Turns(), []

    async def turn(number: int) -> None:
        async with turns.of("client"):
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*(turn(number) for number in range(3)))
    assert order == [0, 0, 1, 1, 2, 2]
    assert not turns._locks
