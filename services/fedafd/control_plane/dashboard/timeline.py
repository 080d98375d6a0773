"""A round's timeline: when each site and each stage of the server was at work, as bars of one scale. Pure.

A site begins when the round begins to collect; a stage when it is announced. What is not over ends now. A site's bar
has three phases: it downloads until it tells of its first step, and uploads from its first byte on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from fedafd.domain.durations import duration_words
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import OPEN_PARTICIPATION_STATES, ParticipationState, RoundState
from fedafd.persistence.models import ClientRow, EventRow, ParticipationRow, RoundRow, StageRow

__all__ = ["Bar", "Phase", "Timeline", "seconds_left", "time_left", "timeline"]

_STAGES = {
    StageKind.PREPARE: "Prepare: train and encode",
    StageKind.FOLD: "Fold",
    StageKind.WEIGH: "Weigh",
    StageKind.MERGE: "Merge",
    StageKind.DISTIL: "Distil",
    StageKind.EVALUATE: "Evaluate and publish",
}
_LEAST_SECONDS = 0.05
"""A rate that was measured over less says nothing."""
_TOGETHER = (StageKind.FOLD, StageKind.WEIGH, StageKind.MERGE)
"""Many of them, one bar: there are as many as sites."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A piece of a site's bar, at the same scale."""

    name: str
    """download, training or upload."""
    left: float
    width: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One line of the timeline. `left` and `width` are in percent of the whole."""

    name: str
    state: str
    left: float
    width: float
    seconds: float
    note: str
    progress: float
    bytes_up: int = 0
    bytes_down: int = 0
    slowest: bool = False
    phases: tuple[Phase, ...] = ()
    """None where the site told of no step yet."""

    @property
    def rate_down(self) -> float | None:
        """Bytes per second of the download; None where nothing moved, or it is not known when."""
        return self._rate("download", self.bytes_down)

    @property
    def rate_up(self) -> float | None:
        """As `rate_down`, of the upload."""
        return self._rate("upload", self.bytes_up)

    def _rate(self, name: str, moved: int) -> float | None:
        seconds = next((phase.seconds for phase in self.phases if phase.name == name), 0.0)
        return moved / seconds if moved and seconds >= _LEAST_SECONDS else None


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All bars, and the span they share."""

    seconds: float
    server: list[Bar]
    sites: list[Bar]


class _Scale:
    def __init__(self, start: datetime, end: datetime) -> None:
        self.start, self.end = start, end
        self.seconds = max((end - start).total_seconds(), 1e-3)

    def bar(self, begin: datetime, finish: datetime | None) -> tuple[float, float, float]:
        """Left and width in percent, and the seconds in between."""
        begin, finish = max(begin, self.start), min(finish or self.end, self.end)
        seconds = max((finish - begin).total_seconds(), 0.0)
        left = (begin - self.start).total_seconds() / self.seconds * 100
        return round(min(left, 100), 2), round(max(seconds / self.seconds * 100, 0.4), 2), seconds


def timeline(
    row: RoundRow,
    changes: Sequence[EventRow],
    stages: Sequence[StageRow],
    parts: Sequence[tuple[ParticipationRow, ClientRow]],
    now: datetime,
) -> Timeline | None:
    """None for a round that has not begun."""
    if row.started_at is None:
        return None
    scale = _Scale(row.started_at, row.finished_at or now)
    collecting = next((change.at for change in changes if change.data.get("new") == RoundState.COLLECTING.value), None)
    sites = list(_sites(scale, parts, collecting or row.state_changed_at))
    return Timeline(seconds=scale.seconds, server=list(_server(scale, stages)), sites=sites)


def _server(scale: _Scale, stages: Sequence[StageRow]) -> Iterator[Bar]:
    for kind in StageKind:
        of_kind = [stage for stage in stages if stage.kind == kind.value]
        if kind in _TOGETHER and of_kind:
            yield _together(scale, kind, of_kind)
        elif kind not in _TOGETHER:
            for stage in of_kind:
                yield _stage(scale, kind, stage)


def _stage(scale: _Scale, kind: StageKind, stage: StageRow) -> Bar:
    left, width, seconds = scale.bar(stage.created_at, stage.finished_at)
    notes = [stage.reason or (stage.activity if stage.finished_at is None else "") or "", stage.worker or ""]
    if stage.failures:
        notes.insert(0, f"failed {'once' if stage.failures == 1 else f'{stage.failures} times'} before")
    return Bar(
        name=_STAGES[kind],
        state=stage.state,
        left=left,
        width=width,
        seconds=seconds,
        note="; ".join(note_text for note_text in notes if note_text),
        progress=1.0 if stage.state == "done" else stage.progress,
    )


def _together(scale: _Scale, kind: StageKind, stages: Sequence[StageRow]) -> Bar:
    ends = [stage.finished_at for stage in stages]
    done = sum(stage.state == "done" for stage in stages)
    states = {stage.state for stage in stages}
    state = next(
        (state_name for state_name in ("failed", "running", "pending", "cancelled") if state_name in states), "done"
    )
    left, width, seconds = scale.bar(
        min(stage.created_at for stage in stages), None if None in ends else max(end for end in ends if end)
    )
    return Bar(
        name=f"{_STAGES[kind]} deliveries",
        state=state,
        left=left,
        width=width,
        seconds=seconds,
        note=f"{done} of {len(stages)} done",
        progress=done / len(stages),
    )


def _sites(scale: _Scale, parts: Sequence[tuple[ParticipationRow, ClientRow]], began: datetime) -> Iterator[Bar]:
    delivered = [part for part, _ in parts if part.state == ParticipationState.DELIVERED.value]
    latest = max((part.settled_at for part in delivered if part.settled_at), default=None)
    for part, client in parts:
        left, width, seconds = scale.bar(began, part.settled_at)
        is_open = ParticipationState(part.state) in OPEN_PARTICIPATION_STATES
        yield Bar(
            name=client.name,
            state=part.state,
            left=left,
            width=width,
            seconds=seconds,
            note=part.reason or (part.activity or "" if is_open else ""),
            progress=1.0 if part.state == ParticipationState.DELIVERED.value else part.progress,
            bytes_up=part.bytes_up,
            bytes_down=part.bytes_down,
            slowest=len(delivered) > 1 and part in delivered and part.settled_at == latest,
            phases=tuple(_phases(scale, part, began)),
        )


def _phases(scale: _Scale, part: ParticipationRow, began: datetime) -> Iterator[Phase]:
    moments = (("download", began), ("training", part.trains_since), ("upload", part.sends_since))
    known = [(name, moment) for name, moment in moments if moment is not None]
    if part.trains_since is None:
        return
    ends = [*(moment for _, moment in known[1:]), part.settled_at]
    for (name, begin), end in zip(known, ends, strict=True):
        left, width, seconds = scale.bar(begin, end)
        yield Phase(name=name, left=left, width=width, seconds=seconds)


def time_left(row: RoundRow, earlier: Sequence[RoundRow], now: datetime) -> str:
    """Of an open round, by what the last completed one took, in words; empty where nothing says it."""
    last = next((ended for ended in earlier if ended.state == RoundState.COMPLETED.value), None)
    if row.started_at is None or row.finished_at is not None or last is None:
        return ""
    if last.started_at is None or last.finished_at is None:
        return ""
    took = (last.finished_at - last.started_at).total_seconds()
    left = took - (now - row.started_at).total_seconds()
    words = f"round {last.number} took {duration_words(took)}"
    return f"about {duration_words(left)} ({words})" if left > 0 else f"longer than usual ({words})"


def seconds_left(row: RoundRow, now: datetime) -> str:
    """Until the round's deadline, in words; empty where it has none, or waits for no site."""
    if row.deadline_at is None or row.state != RoundState.COLLECTING.value:
        return ""
    return duration_words((row.deadline_at - now).total_seconds())
