"""Outputs are stored while others are made, some at once, and no more than there is room for."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from fedafd.distiller.storing import Storing
from fedafd.domain.errors import StorageError

LABEL: ContextVar[str] = ContextVar("label", default="")


def test_several_are_stored_at_once_each_in_the_context_it_began_in() -> None:
    meet = threading.Barrier(3, timeout=10)

    def store() -> str:
        meet.wait()
        return LABEL.get()

    with Storing[str]() as storing:
        begun = []
        for label in ("one", "two", "three"):
            LABEL.set(label)
            begun.append(storing.begin(store, 1))
        assert [future.result()[0] for future in begun] == ["one", "two", "three"]


def test_who_finds_no_room_waits_for_those_before_and_a_large_one_goes_alone() -> None:
    free = threading.Event()
    with Storing[int](most_bytes=10) as storing:
        storing.begin(lambda: int(free.wait(10)), 6)
        timer = threading.Timer(0.2, free.set)
        timer.start()
        storing.begin(lambda: 2, 6)
        assert free.is_set()
        assert storing.begin(lambda: 3, 1000).result()[0] == 3


def test_what_cannot_be_stored_says_so_and_hinders_no_other() -> None:
    def refuse() -> int:
        raise StorageError("refused")

    with Storing[int]() as storing:
        refused, stored = storing.begin(refuse, 1), storing.begin(lambda: 1, 1)
        with pytest.raises(StorageError, match="refused"):
            refused.result()
        assert stored.result()[0] == 1
