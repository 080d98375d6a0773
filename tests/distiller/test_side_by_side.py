"""Folds and merges that were claimed together are worked on at the same time, as threads and room allow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import pytest
import torch

from fedafd.distiller.side_by_side import SideBySide
from fedafd.distiller.stages import StageWork
from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import StageKind

LABEL: ContextVar[str] = ContextVar("label", default="")
_SECONDS = 20
_MIB = 1 << 20


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def work(kind: StageKind = StageKind.FOLD, size_bytes: int = _MIB) -> StageWork:
    def split(_: str) -> None:
        raise AssertionError("no fold reads the public set")

    return StageWork(
        kind=kind,
        config=FederationConfig(name="trial"),
        federation_id="trial",
        round_number=1,
        seed=0,
        public_set_sha256="",
        modality=None,
        inputs={"representations": bytes(size_bytes)},
        split=split,  # type: ignore[arg-type]
        device="cpu",
        processes=1,
        progress=lambda *_: None,
    )


@pytest.mark.parametrize("kind", [StageKind.FOLD, StageKind.MERGE])
def test_two_stages_meet_each_in_the_context_it_began_in(kind: StageKind) -> None:
    meet = threading.Barrier(2, timeout=_SECONDS)

    def fold() -> str:
        meet.wait()
        return LABEL.get()

    with SideBySide[str](threads=2) as working:
        begun = []
        for label in ("one", "two"):
            LABEL.set(label)
            begun.append(working.begin(work(kind), fold))
        assert [future.result() for future in begun] == ["one", "two"]


@pytest.mark.parametrize(("threads", "mebibytes", "at_once"), [(1, 1, 1), (3, 1, 3), (4, 4, 2), (4, 100, 1)])
def test_no_more_folds_are_in_work_than_threads_and_room(threads: int, mebibytes: int, at_once: int) -> None:
    """Each waits for as many as may be beside it, so that fewer would wait for ever and more are seen."""
    lock, inside, most = threading.Lock(), 0, 0
    meet = threading.Barrier(at_once, timeout=_SECONDS)

    def fold() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        meet.wait()
        with lock:
            inside -= 1

    with SideBySide[None](threads=threads, most_bytes=10 * _MIB) as working:
        begun = [working.begin(work(size_bytes=mebibytes * _MIB), fold) for _ in range(4 * at_once)]
        for future in begun:
            future.result()
    assert most == at_once


def test_what_is_neither_fold_nor_merge_is_done_when_it_has_begun_and_raises_then() -> None:
    own = threading.get_ident()
    with SideBySide[int](threads=4) as working:
        future = working.begin(work(StageKind.WEIGH), threading.get_ident)
        assert future.done()
        assert future.result() == own
        with pytest.raises(DataError):
            working.begin(work(StageKind.WEIGH), _fail)


@pytest.mark.parametrize("kind", [StageKind.FOLD, StageKind.MERGE])
def test_small_ones_are_done_when_they_have_begun(kind: StageKind) -> None:
    own = threading.get_ident()
    with SideBySide[int](threads=4) as working:
        assert [working.begin(work(kind, 1000), threading.get_ident).result() for _ in range(2)] == [own, own]


def _fail() -> int:
    raise DataError("no rows")


def test_a_fold_that_fails_tells_so_later_and_hinders_no_other() -> None:
    with SideBySide[int](threads=2) as working:
        failed = working.begin(work(), _fail)
        assert working.begin(work(), lambda: 5).result() == 5
        with pytest.raises(DataError):
            failed.result()


def test_threads_that_start_afterwards_compute_on_as_many_threads_as_before() -> None:
    torch.set_num_threads(3)

    def fold() -> None:
        torch.set_num_threads(1)

    with SideBySide[None](threads=3) as working:
        for future in [working.begin(work(), fold) for _ in range(4)]:
            future.result()
    assert (torch.get_num_threads(), _in_a_new_thread(torch.get_num_threads)) == (3, 3)


def _in_a_new_thread(ask: Callable[[], int]) -> int:
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    thread.join()
    return answers[0]
