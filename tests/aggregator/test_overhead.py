"""What a round costs beside training, counted, so that no machine's load moves it: per client a constant."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from tests.aggregator.crowd import Counts, crowd_of
from tests.servers import ROOT

_BOUNDS = {
    "statements": (330, 36),
    "executions": (300, 22),
    "transactions": (60, 8),
    "objects": (4, 8),
    "stages": (7, 2),
    "calls": (20, 16),
    "messages": (4, 0.7),
}
"""Per round, and beside that per client, at any number of clients. A slow machine announces more folds at once."""
_A_SECOND = {"statements": 8, "executions": 8, "transactions": 2}
"""Of the coordinator's looks, which go by the clock: on a slow machine a round has more of them."""
_LIGHT_CALLS = 10.5
"""Of a client that reports no progress."""
_POLL_SECONDS = 60
"""Who waits asks again after so long, which is no cost of the round."""


def _check(counts: Counts, count: int, **each_client: float) -> None:
    counts.calls["FetchTask"] -= count * int(counts.seconds // _POLL_SECONDS)
    for name, total in counts.totals().items():
        a_round, each = _BOUNDS[name]
        each = each_client.get(name, each)
        looks = _A_SECOND.get(name, 0) * counts.seconds
        assert total <= a_round + each * count + looks, f"{name}: {getattr(counts, name)}"


async def _round_of(count: int, folder: Path, redis_url: str, *, light: bool = False) -> Counts:
    """What a round costs after the first, in which agents also download the public set; light sites never do."""
    async with crowd_of(count, folder, redis_url, light=light) as crowd:
        if not light:
            await crowd.round()
        started, used = time.monotonic(), time.process_time()
        counts = await crowd.round()
        used, counts.seconds = time.process_time() - used, time.monotonic() - started
    each = {name: round(total / count, 1) for name, total in counts.totals().items()}
    print(
        f"{count} clients: {each} per client and round; {counts.seconds:.1f} s, {used:.1f} s of CPU with the clients'"
    )
    for name in counts.totals():
        print(f"    {name}: {dict(getattr(counts, name))}")
    return counts


_ON_THE_PAGE = {
    "statements": "statements",
    "executions of them": "executions",
    "transactions": "transactions",
    "object operations of the aggregator": "objects",
    "stages": "stages",
    "calls": "calls",
    "messages to distillers": "messages",
}


def test_the_page_says_the_bounds_that_are_asserted() -> None:
    """docs/scale.md has them in the last column of its first table, per client and then per round."""
    told = {}
    for line in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").splitlines():
        what, _, rest = line.removeprefix("| ").partition(" | ")
        name = _ON_THE_PAGE.get(what.partition(",")[0])
        if name is not None and name not in told:
            told[name] = [float(number) for number in re.findall(r"[\d.]+\d|\d", rest.rsplit(" | ", 1)[1])]
    expected = {name: [each, a_round] for name, (a_round, each) in _BOUNDS.items()}
    expected["calls"] = [_LIGHT_CALLS, _BOUNDS["calls"][0], _BOUNDS["calls"][1]]
    assert told == expected


@pytest.mark.parametrize("count", [2, 20])
async def test_what_an_agent_costs_in_a_round_is_bounded(count: int, tmp_path: Path, redis_url: str) -> None:
    _check(await _round_of(count, tmp_path, redis_url), count)


@pytest.mark.parametrize("count", [2, 20, 200])
async def test_what_a_client_costs_does_not_depend_on_how_many_there_are(
    count: int, tmp_path: Path, redis_url: str
) -> None:
    _check(await _round_of(count, tmp_path, redis_url, light=True), count, calls=_LIGHT_CALLS)


@pytest.mark.skipif("FEDAFD_TEST_CROWD" not in os.environ, reason="set FEDAFD_TEST_CROWD to a number of clients")
async def test_what_a_client_costs_in_a_crowd_is_bounded(tmp_path: Path, redis_url: str) -> None:
    count = int(os.environ["FEDAFD_TEST_CROWD"])
    _check(await _round_of(count, tmp_path, redis_url, light=True), count, calls=_LIGHT_CALLS)
