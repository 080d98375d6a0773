"""Where a round's seconds go: from the moments that the control plane tells of a round, and the distiller's work."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from benchmarks.round_overhead.timed_distiller import Work
from fedafd.client.answers import RoundDetails

__all__ = ["Phases", "medians", "phases_of"]

Phases = Mapping[str, float]
"""Seconds by phase, one after the other; the last is the longest pause between two stages."""

_LAST = ("weigh", "merge", "distil", "evaluate")
_PAUSE = "longest pause between two stages of the last part"


def phases_of(details: RoundDetails, work: Sequence[Work]) -> Phases:
    """Of a completed round. `work` are its stages' begins and ends in a distiller."""
    created, finished = _seconds(details["created_at"]), _seconds(details["finished_at"])
    announced, prepared = _span(details, "prepare")
    deliveries = sorted(_seconds(part["settled_at"]) for part in details["participations"])
    moments = [
        ("the request to prepare's announcement", announced),
        ("prepare", prepared),
        ("prepare's end to the first delivery", deliveries[0]),
        ("the first delivery to the last", deliveries[-1]),
        ("the last delivery to the last fold's end", _span(details, "fold")[1]),
        *((f"{kind}, with what is around it", _span(details, kind)[1]) for kind in _LAST),
        ("evaluate's end to the round's", finished),
    ]
    spans = pairwise([("", created), *moments])
    phases = {name: end - start for (_, start), (name, end) in spans}
    return phases | {_PAUSE: max(_pauses(work), default=0.0)}


def medians(rounds: Sequence[Phases]) -> dict[str, float]:
    """Of each phase over some rounds."""
    return {name: statistics.median(phases[name] for phases in rounds) for name in rounds[0]}


def _span(details: RoundDetails, kind: str) -> tuple[float, float]:
    """When the first stage of a kind was announced, and when the last one ended."""
    stages = [stage for stage in details["stages"] if stage["kind"] == kind]
    return min(_seconds(each["announced_at"]) for each in stages), max(_seconds(each["finished_at"]) for each in stages)


def _pauses(work: Iterable[Work]) -> list[float]:
    """In which no stage of the round's last part is worked on, from the first of them to the last."""
    last_part = sorted((each for each in work if each.kind in _LAST), key=lambda each: each.began)
    pauses, busy_until = [], None
    for each in last_part:
        if busy_until is not None:
            pauses.append(max(0.0, each.began - busy_until))
        busy_until = max(each.ended, busy_until or each.ended)
    return pauses


def _seconds(moment: str | None) -> float:
    assert moment is not None, "the round is completed"
    return datetime.fromisoformat(moment).timestamp()
