"""A blob arrives as one growing object: whoever sends or receives it, and however often the line breaks."""

from __future__ import annotations

import asyncio
import random
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.aggregator.crowd import CountingStore
from tests.aggregator.world import World, refused

from fedafd.aggregator.arrivals import ArrivingBlob, Stream
from fedafd.artifacts.representations import check_representations, encode_representations
from fedafd.domain.config import WireDtype
from fedafd.domain.errors import RepresentationError, UploadIncompleteError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import Modality
from fedafd.persistence.models import RoundRow, UploadRow
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.storage import ObjectStore
from fedafd.storage.folder import FolderStore

CHUNK = 65536
CONTENT = random.Random(1).randbytes(9 * CHUNK + 5)
CHUNKS = [CONTENT[start : start + CHUNK] for start in range(0, len(CONTENT), CHUNK)]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database: the store is what these tests are about."""
    return f"sqlite:///{tmp_path}/test.db"


class InLargePieces(FolderStore):
    """A folder that takes three chunks at once, as S3 takes five MiB."""

    append_bytes = 3 * CHUNK


def arriving(store: ObjectStore) -> ArrivingBlob:
    upload = UploadRow(
        id="u",
        sha256=sha256_of(CONTENT),
        size_bytes=len(CONTENT),
        chunk_size_bytes=CHUNK,
        chunk_sha256=[sha256_of(chunk) for chunk in CHUNKS],
    )
    return ArrivingBlob(store, RoundRow(federation_id="trial", number=1), upload)


def begin_of(round_id: str, content: bytes = CONTENT) -> pb.BeginUploadRequest:
    chunks = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
    return pb.BeginUploadRequest(
        round_id=round_id,
        upload_purpose=pb.UPLOAD_PURPOSE_REPRESENTATIONS,
        sha256=sha256_of(content),
        size_bytes=len(content),
        chunk_size_bytes=CHUNK,
        chunk_sha256=[sha256_of(chunk) for chunk in chunks],
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    breaks=st.lists(st.tuples(st.integers(0, len(CHUNKS)), st.booleans()), max_size=6),
    large=st.booleans(),
)
def test_whatever_breaks_off_the_blob_is_whole_in_the_end(
    breaks: list[tuple[int, bool]], large: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each stream sends so many chunks and breaks off; some begin one chunk early, as who has not heard would."""
    folder = tmp_path_factory.mktemp("store")
    store = InLargePieces(folder) if large else FolderStore(folder)

    async def run() -> bytes:
        for count, early in [*breaks, (len(CHUNKS), False)]:
            # Each time another process: nothing is known but what the store has.
            blob = arriving(store)
            missing = blob.missing(await blob.size_arrived())
            first = max(0, missing.start - early)
            stream = Stream(blob, first, store.append_bytes)
            for index in range(first, min(first + count, len(CHUNKS))):
                await stream.take(index, CHUNKS[index])
        blob = arriving(store)
        assert not blob.missing(await blob.size_arrived())
        await blob.finish("there")
        return (await blob.file(folder)).read_bytes()

    assert asyncio.run(run()) == CONTENT
    assert store.get("there") == CONTENT


async def test_two_processes_that_receive_one_blob_at_the_same_time_agree(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)

    async def receive() -> None:
        blob = arriving(store)
        stream = Stream(blob, 0, store.append_bytes)
        for index, chunk in enumerate(CHUNKS):
            await stream.take(index, chunk)

    await asyncio.gather(receive(), receive(), receive())
    assert (await arriving(store).file(tmp_path)).read_bytes() == CONTENT


async def test_a_chunk_that_leaves_a_gap_is_refused(tmp_path: Path) -> None:
    blob = arriving(FolderStore(tmp_path))
    with pytest.raises(UploadIncompleteError, match="chunk 2 came before chunk 0"):
        await Stream(blob, 0, 1).take(2, CHUNKS[2])
    with pytest.raises(UploadIncompleteError, match="chunk 2 has not arrived"):  # nor those before
        await Stream(blob, 2, 1).take(2, CHUNKS[2])


@pytest.mark.parametrize("damaged", [0, 4, len(CHUNKS) - 1])
async def test_only_what_follows_damage_in_the_store_comes_again(tmp_path: Path, damaged: int) -> None:
    store = FolderStore(tmp_path)
    blob = arriving(store)
    stream = Stream(blob, 0, store.append_bytes)
    for index, chunk in enumerate(CHUNKS):
        await stream.take(index, chunk)
    path = await blob.file(tmp_path)
    content = bytearray(path.read_bytes())
    content[damaged * CHUNK] ^= 1
    path.write_bytes(content)
    with pytest.raises(UploadIncompleteError, match=f"chunks {damaged} were damaged"):
        await blob.file(tmp_path)
    assert list(blob.missing(await blob.size_arrived())) == list(range(damaged, len(CHUNKS)))


async def test_an_upload_is_one_object_in_the_store_and_is_written_once(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    counts: Counter[str] = Counter()
    world.use_store(CountingStore(world.context.store, counts))
    upload_id = await world.upload(caller, round_id, CONTENT)
    there = [found for found in world.context.store.list("federations/") if "/chunks/" in found.key]
    assert [(found.size_bytes, upload_id in found.key) for found in there] == [(len(CONTENT), True)]
    assert counts["put"] == len(CHUNKS)
    counts.clear()
    assert (await world.deliver(caller, round_id, world.reps())).accepted
    assert counts["finish"] == 1
    assert counts["put"] == 1  # the one chunk of the representations


async def test_a_stream_whose_round_closes_leaves_nothing_that_counts(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    begun = await world.agents.BeginUpload(begin_of(round_id), metadata=caller)
    assert list(begun.missing_chunks) == list(range(len(CHUNKS)))
    leave = pb.LeaveRoundRequest(round_id=round_id, leave_reason=pb.LEAVE_REASON_DISK_FULL)
    first = asyncio.Event()

    async def messages() -> AsyncIterator[pb.UploadChunksRequest]:
        yield pb.UploadChunksRequest(upload_id=begun.upload_id, index=0, data=CHUNKS[0])
        first.set()
        await world.agents.LeaveRound(leave, metadata=caller)
        yield pb.UploadChunksRequest(upload_id=begun.upload_id, index=1, data=CHUNKS[1])

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.UploadChunks(messages(), metadata=caller, timeout=30)
    refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "round-closed")
    assert first.is_set()


async def test_another_aggregator_goes_on_where_the_first_one_stopped(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    begun = await world.agents.BeginUpload(begin_of(round_id), metadata=caller)

    def messages(indices: range) -> Iterator[pb.UploadChunksRequest]:
        for index in indices:
            yield pb.UploadChunksRequest(upload_id=begun.upload_id, index=index, data=CHUNKS[index])

    answer = await world.agents.UploadChunks(messages(range(4)), metadata=caller)
    assert answer.accepted_chunks == 4
    world.use_store(replace_store(world))
    again = await world.agents.BeginUpload(begin_of(round_id), metadata=caller)
    assert (again.upload_id, list(again.missing_chunks)) == (begun.upload_id, list(range(4, len(CHUNKS))))
    # One chunk twice: its answer was lost.
    await world.agents.UploadChunks(messages(range(3, len(CHUNKS))), metadata=caller)
    assert not (await world.agents.BeginUpload(begin_of(round_id), metadata=caller)).missing_chunks


def replace_store(world: World) -> FolderStore:
    """The same folder, as another process opens it."""
    assert isinstance(world.context.store, FolderStore)
    return FolderStore(world.context.store.root)


def test_checking_a_file_of_representations_takes_little_memory(tmp_path: Path) -> None:
    rows = np.zeros((200_000, 256), np.float32)
    rows[:, 0] = 1
    file = tmp_path / "reps"
    file.write_bytes(encode_representations({Modality.IMAGE: rows}, "0" * 64, WireDtype.FLOAT16))
    form: dict[str, Any] = {"modalities": [Modality.IMAGE], "num_samples": 200_000, "embedding_dim": 256}
    del rows
    tracemalloc.start()
    try:
        check_representations(file, **form, public_set_sha256="0" * 64, dtype=WireDtype.FLOAT16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 100e6
    assert peak < 40e6


@pytest.mark.parametrize("row", [0, 4095, 4096, 9999])
def test_a_bad_row_is_named_wherever_it_is(tmp_path: Path, row: int) -> None:
    rows = np.zeros((10_000, 256), np.float32)
    rows[:, 0] = 1
    rows[row, 0] = 2
    file = tmp_path / "reps"
    file.write_bytes(encode_representations({Modality.IMAGE: rows}, "0" * 64, WireDtype.FLOAT32))
    with pytest.raises(RepresentationError, match=f"row {row} has length 2.0000"):
        check_representations(
            file,
            modalities=[Modality.IMAGE],
            num_samples=10_000,
            embedding_dim=256,
            public_set_sha256="0" * 64,
            dtype=WireDtype.FLOAT32,
        )


class _Slow(FolderStore):
    """A folder whose disk takes nothing until it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.may = threading.Event(), threading.Event()

    def append(self, key: str, offset: int, data: bytes) -> None:
        self.asked.set()
        assert self.may.wait(30)
        super().append(key, offset, data)


async def test_a_chunk_is_in_memory_once_while_the_store_takes_it(world: World) -> None:
    """Fifty sites that send at the same time are fifty times whatever else holds it."""
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    content = random.Random(2).randbytes(1 << 20)
    begin = pb.BeginUploadRequest(
        round_id=round_id,
        upload_purpose=pb.UPLOAD_PURPOSE_REPRESENTATIONS,
        sha256=sha256_of(content),
        size_bytes=len(content),
        chunk_size_bytes=len(content),
        chunk_sha256=[sha256_of(content)],
    )
    begun = await world.agents.BeginUpload(begin, metadata=caller)
    slow = _Slow(replace_store(world).root)
    world.use_store(slow)

    async def messages() -> AsyncIterator[pb.UploadChunksRequest]:
        yield pb.UploadChunksRequest(upload_id=begun.upload_id, index=0, data=content)
        await asyncio.to_thread(slow.may.wait, 30)

    tracemalloc.start()
    try:
        call = asyncio.ensure_future(world.agents.UploadChunks(messages(), metadata=caller))
        assert await asyncio.to_thread(slow.asked.wait, 30)
        held = [trace.size for trace in tracemalloc.take_snapshot().traces if trace.size >= len(content)]
        slow.may.set()
        assert (await call).accepted_chunks == 1
    finally:
        tracemalloc.stop()
        slow.may.set()
    assert len(held) == 1
