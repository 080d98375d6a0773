"""Downloads of many sites read the store once, and never give anything but what the store holds."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregator.world import World

from fedafd.aggregator.shared_reads import PIECE_BYTES, SENT_BYTES, SharedReads
from fedafd.artifacts.blocks import Span
from fedafd.domain.errors import ArtifactNotFoundError
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.storage.folder import FolderStore

_KEY = "federations/trial/bundle"
_CONTENT = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"the end"


class _CountingStore(FolderStore):
    """A folder that counts its reads, which can be held up."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: Counter[tuple[str, int]] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        self.reads[key, offset] += 1
        data = b"".join(super().stream(key, offset, length))
        self.begun.set()
        assert self.gate.wait(20)
        yield data


@pytest.fixture
def store(tmp_path: Path) -> _CountingStore:
    """It holds the content."""
    store = _CountingStore(tmp_path / "store")
    store.put(_KEY, _CONTENT)
    return store


async def _read(reads: SharedReads, *spans: Span) -> bytes:
    return b"".join([piece async for piece in reads.stream(_KEY, spans)])


def _whole(start: int = 0) -> Span:
    return Span(start, len(_CONTENT))


async def test_sites_that_download_at_once_read_each_piece_once(store: _CountingStore) -> None:
    reads = SharedReads(store)
    assert set(await asyncio.gather(*(_read(reads, _whole()) for _ in range(20)))) == {_CONTENT}
    assert await _read(reads, _whole(PIECE_BYTES)) == _CONTENT[PIECE_BYTES:]
    assert set(store.reads.values()) == {1}
    assert len(store.reads) == 4


async def test_messages_stay_as_short_as_the_wire_takes_them(store: _CountingStore) -> None:
    lengths = [len(part) async for part in SharedReads(store).stream(_KEY, [_whole()])]
    assert max(lengths) == SENT_BYTES
    assert sum(lengths) == len(_CONTENT)


async def test_who_resumes_shares_what_comes_after_its_first_piece(store: _CountingStore) -> None:
    reads = SharedReads(store)
    await _read(reads, _whole())
    assert await _read(reads, _whole(10)) == _CONTENT[10:]
    assert store.reads[_KEY, 10] == 1
    assert len(store.reads) == 5


async def test_what_is_kept_is_bounded_and_what_was_used_last_stays(store: _CountingStore) -> None:
    reads = SharedReads(store, kept_bytes=2 * PIECE_BYTES)
    await _read(reads, _whole())
    store.reads.clear()
    await _read(reads, Span(2 * PIECE_BYTES, 3 * PIECE_BYTES))
    assert not store.reads
    await _read(reads, Span(0, PIECE_BYTES))
    assert store.reads == {(_KEY, 0): 1}


async def test_a_damaged_object_is_read_anew_even_by_who_comes_while_it_is_being_read(store: _CountingStore) -> None:
    store.put(_KEY, b"damaged")
    reads, first = SharedReads(store), Span(0, 7)
    store.gate.clear()
    early = asyncio.create_task(_read(reads, first))
    await asyncio.to_thread(store.begun.wait, 20)
    store.put(_KEY, b"mended!")
    reads.forget(_KEY)
    late = asyncio.create_task(_read(reads, first))
    await asyncio.sleep(0)
    store.gate.set()
    assert (await early, await late) == (b"damaged", b"mended!")
    assert await _read(reads, first) == b"mended!"
    reads.forget(_KEY)
    store.put(_KEY, b"another")
    assert await _read(reads, first) == b"another"


async def test_a_failed_read_is_told_to_all_who_wait_and_kept_for_nobody(store: _CountingStore) -> None:
    store.delete(_KEY)
    reads = SharedReads(store)
    answers = await asyncio.gather(*(_read(reads, _whole()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(answer, ArtifactNotFoundError) for answer in answers)
    store.put(_KEY, _CONTENT)
    assert await _read(reads, _whole()) == _CONTENT


async def test_who_gives_up_takes_no_read_from_others(store: _CountingStore) -> None:
    reads = SharedReads(store)
    store.gate.clear()
    one, other = (asyncio.create_task(_read(reads, _whole())) for _ in range(2))
    await asyncio.to_thread(store.begun.wait, 20)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    store.gate.set()
    assert await other == _CONTENT
    assert store.reads[_KEY, 0] == 1


async def test_many_ranges_of_a_byte_are_kept_no_longer_than_what_they_take_up(store: _CountingStore) -> None:
    reads = SharedReads(store, kept_bytes=50_000)
    assert await _read(reads, *(Span(at, at + 1) for at in range(0, 2000, 2))) == _CONTENT[:2000:2]
    assert len(reads._pieces) < 100


async def test_a_slow_reader_holds_a_part_of_its_piece_and_not_the_piece(store: _CountingStore) -> None:
    reads = SharedReads(store, kept_bytes=0)
    slow = reads.stream(_KEY, [_whole()])
    assert await anext(slow) == _CONTENT[:SENT_BYTES]
    assert b"".join([part async for part in slow]) == _CONTENT[SENT_BYTES:]
    assert store.reads[_KEY, SENT_BYTES] == 1, "what was dropped meanwhile is read alone"


async def test_an_object_that_was_cut_is_read_anew_when_it_is_whole(store: _CountingStore) -> None:
    store.put(_KEY, _CONTENT[:100])
    reads = SharedReads(store)
    assert await _read(reads, _whole()) == _CONTENT[:100]
    store.put(_KEY, _CONTENT)
    assert await _read(reads, _whole()) == _CONTENT


async def test_an_object_that_is_shorter_than_it_should_be_ends_there(store: _CountingStore) -> None:
    store.put(_KEY, _CONTENT[: PIECE_BYTES + 5])
    assert await _read(SharedReads(store), _whole()) == _CONTENT[: PIECE_BYTES + 5]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> _CountingStore:
    """A store that stays as it is."""
    store = _CountingStore(tmp_path_factory.mktemp("store"))
    store.put(_KEY, _CONTENT)
    return store


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, len(_CONTENT)), min_size=2, max_size=12, unique=True), kept=st.integers(0, 3))
def test_any_spans_in_any_order_are_what_the_store_holds(filled: _CountingStore, cuts: list[int], kept: int) -> None:
    bounds = sorted(cuts)
    spans = [Span(start, end) for start, end in pairwise(bounds)][::2]

    async def check() -> None:
        reads = SharedReads(filled, kept_bytes=kept * PIECE_BYTES)
        for wanted in (spans, [_whole()], spans[::-1]):
            assert await _read(reads, *wanted) == b"".join(_CONTENT[span.start : span.end] for span in wanted)

    asyncio.run(check())


@pytest.fixture
async def counted(world: World, tmp_path: Path) -> tuple[World, _CountingStore]:
    """The services with a store that counts."""
    store = _CountingStore(tmp_path / "store")
    object.__setattr__(world.context, "downloads", SharedReads(store))
    return world, store


async def test_all_sites_of_a_round_cost_the_store_one_read_of_each_object(
    counted: tuple[World, _CountingStore],
) -> None:
    world, store = counted
    callers = [await world.enrol(f"site-{number}") for number in range(5)]
    await world.start_round()
    await world.prepare()
    store.reads.clear()

    async def download(caller: tuple[tuple[str, str], ...]) -> list[bytes]:
        task = (await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)).train
        wanted = (*task.encoder_bundles, task.global_representations)
        answers = []
        for artifact in wanted:
            request = pb.DownloadArtifactRequest(sha256=artifact.sha256)
            answers.append(b"".join([m.data async for m in world.agents.DownloadArtifact(request, metadata=caller)]))
        assert [len(answer) for answer in answers] == [artifact.size_bytes for artifact in wanted]
        return answers

    everybodys = await asyncio.gather(*map(download, callers))
    assert all(answers == everybodys[0] for answers in everybodys)
    assert set(store.reads.values()) == {1}
