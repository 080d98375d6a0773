"""Batches made ready on a stream beside: whatever order two streams run in, a step gets its own batch, whole.

The streams here are simulated: what is asked of one waits in a queue, and a draw decides which queue goes on. That is
all that a GPU promises of two streams.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedafd.learning.ahead import ahead

CPU = torch.device("cpu")


class Simulated:
    """Two streams of work that is not done before `run`."""

    def __init__(self) -> None:
        self.queues: dict[str, deque[tuple[str, Any]]] = {"trains": deque(), "beside": deque()}
        self.current = "trains"
        self.taken: list[Tensor] = []

    @contextmanager
    def beside(self) -> Iterator[None]:
        self.current = "beside"
        yield
        self.current = "trains"

    def ask(self, work: Callable[[], object]) -> None:
        self.queues[self.current].append(("work", work))

    def follow(self) -> None:
        self._wait_in("beside", self._mark_in("trains"))

    def mark(self) -> object:
        return self._mark_in("beside")

    def wait(self, mark: Any) -> None:
        self._wait_in("trains", mark)

    def takes(self, tensor: Tensor) -> None:
        self.taken.append(tensor)

    def _mark_in(self, stream: str) -> object:
        mark = object()
        self.queues[stream].append(("mark", mark))
        return mark

    def _wait_in(self, stream: str, mark: object) -> None:
        self.queues[stream].append(("wait", mark))

    def run(self, seed: int) -> None:
        """All that was asked, in one of the orders that streams allow."""
        draws, passed = random.Random(seed), set()
        while any(self.queues.values()):
            ready = [q for q in self.queues.values() if q and not (q[0][0] == "wait" and id(q[0][1]) not in passed)]
            assert ready, "the streams wait for each other"
            kind, what = draws.choice(ready).popleft()
            if kind == "work":
                what()
            elif kind == "mark":
                passed.add(id(what))


class Hasty(Simulated):
    """Streams that do not wait."""

    def _wait_in(self, stream: str, mark: object) -> None:
        pass


def _note(value: Tensor, seen: list[float]) -> None:
    seen.append(float(value))


def trained(streams: Simulated, count: int, seed: int) -> list[float]:
    """What each step finds in its batch; all batches are made from rows that are written before training begins."""
    rows = torch.zeros(count)
    seen: list[float] = []
    streams.ask(lambda: rows.copy_(torch.arange(1.0, count + 1)))

    def source() -> Iterator[dict[str, Tensor]]:
        for number in range(count):
            batch = torch.zeros(())
            streams.ask(partial(batch.copy_, rows[number]))
            yield {"rows": batch}

    for batch in ahead(source(), CPU, streams):
        assert batch["rows"] is streams.taken[-1]
        streams.ask(partial(_note, batch["rows"], seen))
    streams.run(seed)
    return seen


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 6), seed=st.integers(0, 1 << 30))
def test_a_step_gets_its_own_batch_whatever_order_the_streams_run_in(count: int, seed: int) -> None:
    assert trained(Simulated(), count, seed) == [float(number + 1) for number in range(count)]


def test_streams_that_do_not_wait_are_found_out() -> None:
    wanted = [1.0, 2.0, 3.0, 4.0]
    assert any(trained(Hasty(), 4, seed) != wanted for seed in range(20))


def test_the_next_batch_is_asked_for_before_one_is_handed_out() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number

    assert [(batch, len(made)) for batch in ahead(source(), CPU, Simulated())] == [(0, 2), (1, 3), (2, 3)]


def test_without_streams_a_batch_is_made_when_it_is_asked_for() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(2):
            made.append(number)
            yield number

    assert [(batch, len(made)) for batch in ahead(source(), CPU)] == [(0, 1), (1, 2)]


def test_what_breaks_while_a_batch_is_made_is_raised() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(ahead(source(), CPU, Simulated()))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_of_a_gpu_are_those_of_the_host() -> None:
    rows, device = torch.randn(64, 1000), torch.device("cuda")
    source = (rows[at : at + 8].pin_memory().to(device, non_blocking=True) for at in range(0, 64, 8))
    torch.testing.assert_close(torch.cat([batch * 2 for batch in ahead(source, device)]).cpu(), rows * 2)
