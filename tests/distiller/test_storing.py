"""Outputs are stored while others are made, some at once, small ones together, and no more than there is room for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar

import pytest

from fedafd.distiller.storing import Outputs, Storing
from fedafd.domain.errors import StorageError, StorageUnavailableError

LABEL: ContextVar[str] = ContextVar("label", default="")


def output(key: str) -> Callable[[], Outputs[str]]:
    return lambda: Outputs({key: key.encode()}, key)


def test_several_are_stored_at_once_each_in_the_context_it_began_in() -> None:
    meet, labels = threading.Barrier(3, timeout=10), dict[str, str]()

    def put(objects: Mapping[str, bytes]) -> None:
        meet.wait()
        labels.update(dict.fromkeys(objects, LABEL.get()))

    with Storing[str](put, together_bytes=0) as storing:
        begun = []
        for label in ("one", "two", "three"):
            LABEL.set(label)
            begun.append(storing.begin(output(label), 1))
        assert [future.result()[0] for future in begun] == ["one", "two", "three"]
    assert labels == {label: label for label in ("one", "two", "three")}


def test_small_ones_are_stored_together_once_there_are_enough_or_no_more_come() -> None:
    puts: list[list[str]] = []
    with Storing[str](lambda objects: puts.append(sorted(objects)), together_bytes=10) as storing:
        first, second = storing.begin(output("a"), 4), storing.begin(output("b"), 4)
        assert not puts
        assert storing.begin(output("large"), 10).result()[0] == "large"
        storing.begin(output("c"), 4)
        assert (first.result()[0], second.result()[0]) == ("a", "b")
        rest = storing.begin(output("d"), 4)
        storing.flush()
        assert rest.result()[0] == "d"
        storing.begin(output("e"), 4)
    assert puts == [["large"], ["a", "b", "c"], ["d"], ["e"]]


def test_who_finds_no_room_waits_for_those_before_and_a_large_one_goes_alone() -> None:
    free = threading.Event()

    def put(objects: Mapping[str, bytes]) -> None:
        assert "slow" not in objects or free.wait(10)

    with Storing[str](put, together_bytes=0, most_bytes=10) as storing:
        storing.begin(output("slow"), 6)
        timer = threading.Timer(0.2, free.set)
        timer.start()
        storing.begin(output("next"), 6)
        assert free.is_set()
        assert storing.begin(output("large"), 1000).result()[0] == "large"


def test_small_ones_that_wait_for_others_make_room_for_who_needs_it() -> None:
    with Storing[str](lambda _: None, together_bytes=100, most_bytes=10) as storing:
        small = storing.begin(output("small"), 6)
        storing.begin(output("next"), 6)
        assert small.done()


@pytest.mark.parametrize("together_bytes", [0, 100])
def test_what_cannot_be_stored_says_so_and_hinders_no_other(together_bytes: int) -> None:
    def put(objects: Mapping[str, bytes]) -> None:
        if "bad" in objects:
            raise StorageError("refused")

    def broken() -> Outputs[str]:
        raise ValueError("no outputs")

    with Storing[str](put, together_bytes=together_bytes) as storing:
        refused, nothing, stored = (storing.begin(make, 1) for make in (output("bad"), broken, output("good")))
        storing.flush()
        with pytest.raises(StorageError, match="refused"):
            refused.result()
        with pytest.raises(ValueError, match="no outputs"):
            nothing.result()
        assert stored.result()[0] == "good"


def test_an_outage_is_waited_for_once_and_not_by_each_of_those_that_go_together() -> None:
    waited: list[int] = []

    def put(objects: Mapping[str, bytes]) -> None:
        waited.append(len(objects))
        raise StorageUnavailableError("away for as long as one waits")

    with Storing[str](put, together_bytes=100) as storing:
        begun = [storing.begin(output(key), 1) for key in ("a", "b")]
    assert [type(future.exception()) for future in begun] == [StorageUnavailableError] * 2
    assert waited == [2]
