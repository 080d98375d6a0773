"""Which of what a client tells of its part in a round is progress: what advances, and for a while what is excused.

A client that repeats itself would otherwise hold a round to its deadline. Decided in the UPDATE that writes the report,
so that all replicas agree and none asks the database before.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import BigInteger, Boolean, ColumnElement, Float, String, Table, bindparam, case, func

from fedafd.domain.leaving import Activity, ActivityKind
from fedafd.persistence.models import ParticipationRow

__all__ = ["advance_values", "excused_since"]

_MOST_BEGINNINGS = 8
"""Processes of one client in one round whose count begins anew: an agent that restarts does its epoch again."""
_LEAST_ADVANCE = 0.001
"""Of the whole work, for agents that do not count theirs."""
_WAITS_FOR_DISK = timedelta(minutes=10)
"""As long as an agent waits for a disk that cannot be written to."""
_UNCOUNTED = timedelta(minutes=30)
"""Agents from before there was a count repeat their share while they encode, however long that takes."""

_PARTS = cast("Table", ParticipationRow.__table__)


def excused_since(at: datetime, activity: Activity | None, work_done: int) -> datetime | None:
    """A report of `at` that does not advance is excused if its part has advanced since then; None: it is not."""
    if activity is not None and activity.kind is ActivityKind.WAITING_FOR_DISK:
        return at - _WAITS_FOR_DISK
    return at - _UNCOUNTED if work_done == 0 else None


def advance_values() -> dict[str, Any]:
    """What an UPDATE of a part writes for a report, or for bytes that moved.

    Its parameters: `at`; `moves`, whether bytes moved that count; `stepped`, whether it is a report, of `fraction`,
    `work` (0: not counted) and the session `own`; and `excused_since`.
    """
    columns = _PARTS.c
    stepped, work = bindparam("stepped", type_=Boolean), bindparam("work", type_=BigInteger)
    fraction, own = bindparam("fraction", type_=Float), bindparam("own", type_=String(16))
    begins = stepped & (func.coalesce(columns.work_of, "") != own) & (columns.work_begun < _MOST_BEGINNINGS)
    does_more = stepped & (work > columns.work_done)
    gets_farther = stepped & (work == 0) & (fraction >= columns.farthest + _LEAST_ADVANCE)
    advances = bindparam("moves", type_=Boolean) | begins | does_more | gets_farther
    since = bindparam("excused_since", type_=columns.advanced_at.type)
    known = func.coalesce(columns.advanced_at, columns.last_progress_at)
    counts = advances | (stepped & (known >= since))

    def at_if(condition: ColumnElement[bool], otherwise: ColumnElement[Any]) -> ColumnElement[Any]:
        return case((condition, bindparam("at", type_=columns.last_progress_at.type)), else_=otherwise)

    return {
        "last_progress_at": at_if(counts, columns.last_progress_at),
        "advanced_at": at_if(advances, known),
        "work_done": case((begins | does_more, work), else_=columns.work_done),
        "work_of": case((begins, own), else_=columns.work_of),
        "work_begun": case((begins, columns.work_begun + 1), else_=columns.work_begun),
        "farthest": case((begins | gets_farther, fraction), else_=columns.farthest),
    }
