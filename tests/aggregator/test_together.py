"""Questions that are asked at the same time become one, and no answer is older than its question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fedafd.aggregator.cut_off import Waiting
from fedafd.aggregator.together import Together
from fedafd.domain.errors import DatabaseUnavailableError


class Source:
    """Answers with how often it was asked before; holds back while `open` is not set."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.was_asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def ask(self, keys: Sequence[str]) -> dict[str, int | Exception]:
        self.asked.append(list(keys))
        self.was_asked.set()
        number = len(self.asked)
        await self.open.wait()
        return {key: LookupError(key) if key.startswith("bad") else number for key in keys}


async def test_those_that_ask_at_once_are_asked_for_once() -> None:
    source = Source()
    together = Together(source.ask)
    assert await asyncio.gather(*(together.get(key) for key in ("a", "b", "a"))) == [1, 1, 1]
    assert source.asked == [["a", "b"]]


async def test_who_asks_while_an_answer_is_under_way_waits_for_a_later_one() -> None:
    source = Source()
    together = Together(source.ask)
    source.open.clear()
    first = asyncio.ensure_future(together.get("a"))
    await asyncio.sleep(0.01)
    later = [asyncio.ensure_future(together.get(key)) for key in ("a", "b")]
    await asyncio.sleep(0.01)
    source.open.set()
    assert (await first, await asyncio.gather(*later)) == (1, [2, 2])


async def test_of_a_stream_of_questions_the_next_waits_for_as_long_as_the_last_answer_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedafd.aggregator.together._LONGEST_GATHER_SECONDS", 5.0)
    source = Source()
    together = Together(source.ask)
    source.open.clear()
    first = asyncio.ensure_future(together.get("a"))
    await asyncio.sleep(0.3)
    source.open.set()
    await first
    later = [asyncio.ensure_future(together.get("b"))]
    for _ in range(10):
        await asyncio.sleep(0)
    later.append(asyncio.ensure_future(together.get("c")))
    assert await asyncio.gather(*later) == [2, 2]


async def test_one_question_has_so_many_keys_at_most() -> None:
    source = Source()
    together = Together(source.ask, most=2)
    await asyncio.gather(*(together.get(key) for key in "abcde"))
    assert [len(keys) for keys in source.asked] == [2, 2, 1]


async def test_an_error_for_one_key_is_nobody_elses() -> None:
    together = Together(Source().ask)
    good, bad = await asyncio.gather(together.get("a"), together.get("bad"), return_exceptions=True)
    assert good == 1
    assert isinstance(bad, LookupError)


async def test_an_error_of_the_question_reaches_all_who_asked_and_the_next_question_is_put() -> None:
    calls = 0

    async def ask(keys: Sequence[str]) -> dict[str, int | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DatabaseUnavailableError("away")
        return dict.fromkeys(keys, calls)

    together = Together(ask)
    failed = await asyncio.gather(together.get("a"), together.get("b"), return_exceptions=True)
    assert all(isinstance(each, DatabaseUnavailableError) for each in failed)
    assert await together.get("a") == 2


async def test_who_gives_up_takes_nobodys_answer_away() -> None:
    source = Source()
    together = Together(source.ask)
    source.open.clear()
    impatient, patient = (asyncio.ensure_future(together.get("a")) for _ in range(2))
    await asyncio.sleep(0.01)
    impatient.cancel()
    source.open.set()
    assert await patient == 1
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_a_question_that_nobody_will_answer_is_ended_when_the_database_is_out_of_reach() -> None:
    source, waiting = Source(), Waiting()
    together = Together(source.ask, guard=waiting.one)
    source.open.clear()
    asked = [asyncio.ensure_future(together.get(key)) for key in ("a", "b")]
    async with asyncio.timeout(10):
        await source.was_asked.wait()
    waiting.cut_off(True)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, DatabaseUnavailableError) for answer in answers)
    waiting.cut_off(False)
    source.open.set()
    assert await together.get("a") == 2


async def test_an_error_of_the_question_that_one_key_is_at_fault_for_takes_no_other_with_it() -> None:
    async def ask(keys: Sequence[str]) -> dict[str, int | Exception]:
        if "bad" in keys:
            raise LookupError("bad")
        return dict.fromkeys(keys, 1)

    together = Together(ask)
    good, bad = await asyncio.gather(together.get("a"), together.get("bad"), return_exceptions=True)
    assert good == 1
    assert isinstance(bad, LookupError)
