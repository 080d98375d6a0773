"""What a round costs beside training: this system, beside a bare gRPC server that moves the same bytes, and peers.

Each case is a number of pair clients and the megabytes that each of them sends; nobody trains. Seconds are those of a
round beyond the server's own training (preparing, distilling, evaluating, of which the arithmetic alone is taken off).
The ways take turns, so that a busy moment hits all alike; the first turn warms up.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import Clock, Ratio, Report, Times
from benchmarks.round_overhead.case import DEFAULT, MEGABYTE, Case
from benchmarks.round_overhead.floor import Floor
from benchmarks.round_overhead.here import Here, RoundCost
from benchmarks.round_overhead.peers import Peer, find_peers
from benchmarks.round_overhead.phases import medians
from fedafd.local.supervisor import Supervisor

__all__ = ["run"]

_TINY = (Case(2, 0),)
_ADDED_SECONDS = 0.5
_GOAL_SECONDS = {Case(8, 1): 0.5, Case(200, 0): 5.0, Case(1000, 0): 20.0}
_GOAL_FLOORS = {Case(8, 10): (2.0, _ADDED_SECONDS), Case(32, 10): (2.0, _ADDED_SECONDS), Case(8, 100): (2.0, 0.0)}
"""At most so many times the floor, and so many seconds more."""
_FEW, _MANY, _GOAL_TIMES = 5, 50, 1.5
"""From few clients to many, seconds after the last delivery may grow so much."""
_GOAL_CPU_MILLISECONDS = 15.0
_GOAL_GROWTH_MB = 150.0


def run(
    *,
    tiny: bool,
    repeats: int,
    clock: Clock,
    cases: Sequence[str] = (),
    database_url: str | None = None,
    redis_url: str | None = None,
    peers: Path | None = None,
    aggregators: int = 1,
    spread: float = 0.0,
) -> list[Report]:
    """Run all cases in turn; seconds are by the clock on the wall, CPU's are the aggregators', whatever `clock`.

    `spread`: seconds over which a round's clients begin to upload, as they do where each trains for another time; these
    seconds are in those of the round. `peers`: a folder with environments of other systems
    (benchmarks.round_overhead.peers); without it none is run.
    """
    del clock
    others, absent = find_peers(peers)
    chosen = [Case.of(text) for text in cases] or list(_TINY if tiny else DEFAULT)
    with tempfile.TemporaryDirectory(prefix="fedafd-rounds-") as name, Supervisor(Path(name) / "logs") as supervisor:
        folder = Path(name)
        here, floor = (
            Here(supervisor, folder, database_url, redis_url, aggregators, spread),
            Floor(supervisor, folder / "floor"),
        )
        measured = asyncio.run(_turns(here, floor, others, chosen, repeats))
    reports = {case: _report(case, measured[case], absent) for case in chosen}
    for case in chosen:
        few = replace(case, clients=_FEW)
        if case.clients == _MANY and few in measured:
            times = _after_last(measured[case].costs) / _after_last(measured[few].costs)
            reports[case].ratios.append(
                Ratio(f"the same, times that of {few.clients} clients", times, at_most=_GOAL_TIMES)
            )
    return list(reports.values())


@dataclass
class _Measured:
    """Of one case, a turn each; of a peer two rounds in each, by its title."""

    costs: list[RoundCost] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)

    def add(self, cost: RoundCost, floor: float, peers: Mapping[str, Sequence[float]]) -> None:
        """What one turn gave."""
        self.costs.append(cost)
        self.floors.append(floor)
        for title, seconds in peers.items():
            self.peers.setdefault(title, []).extend(seconds)


async def _turns(
    here: Here, floor: Floor, peers: Sequence[Peer], cases: Sequence[Case], repeats: int
) -> dict[Case, _Measured]:
    measured = {case: _Measured() for case in cases}
    try:
        for case in cases:
            await here.add(case)
        for turn in range(repeats + 1):
            for case in cases:
                cost = await here.round(case)
                seconds = await floor.exchange(case.clients, cost.bytes_up, cost.bytes_down)
                beside: dict[str, list[float]] = {}
                if turn:
                    for peer in peers:
                        arguments = (case.clients, cost.bytes_up, cost.bytes_down)
                        beside[peer.title] = await asyncio.to_thread(peer.rounds, *arguments)
                    measured[case].add(cost, seconds, beside)
                line = "".join(f", {title} {each:.2f} s" for title, some in beside.items() for each in some)
                sys.stderr.write(f"{case}: {cost.overhead:.2f} s, floor {seconds:.2f} s{line}, work {cost.work}\n")
    finally:
        await here.close()
    return measured


def _report(case: Case, measured: _Measured, absent: Sequence[str]) -> Report:
    costs, floors = measured.costs, measured.floors
    times = {
        "a round beyond training": Times([c.overhead for c in costs], [c.cpu_seconds for c in costs]),
        "plain gRPC floor": Times(list(floors), list(floors)),
    }
    facts = _facts(case, costs)
    for name in absent:
        facts[name] = "not run: --peers names no folder that holds it"
    for title, seconds in measured.peers.items():
        if seconds:
            times[title] = Times(seconds, seconds)
        else:
            facts[title] = "not run: too many clients for a process each"
    overhead, floor = statistics.median(c.overhead for c in costs), statistics.median(floors)
    ratios = [Ratio("seconds beyond training", overhead, at_most=_goal(case, floor))]
    ratios += [
        Ratio("seconds after the last delivery", _after_last(costs)),
        Ratio("aggregators' CPU, ms per client", _cpu_milliseconds(case, costs), at_most=_cpu_goal(case)),
        Ratio(
            "aggregator's own memory, MB grown since its start",
            costs[-1].own_growth_since_start_bytes / MEGABYTE,
            at_most=_GOAL_GROWTH_MB,
        ),
    ]
    return Report("round_overhead", str(case), times=times, ratios=ratios, facts=facts)


def _after_last(costs: Sequence[RoundCost]) -> float:
    return statistics.median(cost.seconds_after_last for cost in costs)


def _goal(case: Case, floor: float) -> float | None:
    if case in _GOAL_FLOORS:
        times, more = _GOAL_FLOORS[case]
        return times * floor + more
    return _GOAL_SECONDS.get(case)


def _cpu_milliseconds(case: Case, costs: Sequence[RoundCost]) -> float:
    return 1000 * statistics.median(c.cpu_seconds for c in costs) / case.clients


def _cpu_goal(case: Case) -> float | None:
    """Moving bytes is not counted in the goal, so it holds where there are next to none."""
    return _GOAL_CPU_MILLISECONDS if case.megabytes == 0 else None


def _facts(case: Case, costs: Sequence[RoundCost]) -> dict[str, Any]:
    counts = {name: [cost.counts[name] / case.clients for cost in costs] for name in costs[0].counts}
    folding = statistics.median(c.work.get("fold", 0.0) + c.work.get("merge", 0.0) for c in costs)
    return {
        "seconds of training taken off": round(statistics.median(c.training for c in costs), 3),
        "seconds of folds' and merges' arithmetic": round(folding, 3),
        "MB up, down, per client": f"{costs[-1].bytes_up / MEGABYTE:.2f}, {costs[-1].bytes_down / MEGABYTE:.2f}",
        "calls that broke off, of all rounds": costs[-1].broken_calls,
        "own MB grown in a round": round(statistics.median(c.own_growth_bytes for c in costs) / MEGABYTE, 1),
        "MB grown with pages of files": round(statistics.median(c.growth_bytes for c in costs) / MEGABYTE, 1),
        **{f"{name} per client": round(statistics.median(each), 1) for name, each in counts.items()},
        **{f"seconds: {name}": round(seconds, 3) for name, seconds in medians([cost.phases for cost in costs]).items()},
    }
