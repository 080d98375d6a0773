"""States of rounds, participations and stages, and the one table of allowed transitions.

The code's checks, the database's check constraints and the diagrams in docs/architecture.md all come from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from fedafd.domain.errors import IllegalTransitionError

__all__ = [
    "OPEN_PARTICIPATION_STATES",
    "OPEN_ROUND_STATES",
    "PARTICIPATION_TRANSITIONS",
    "ROUND_TRANSITIONS",
    "STAGE_TRANSITIONS",
    "ParticipationState",
    "RoundState",
    "StageState",
    "check_transition",
    "is_terminal",
]


class RoundState(StrEnum):
    """Where a communication round is."""

    QUEUED = "queued"
    PREPARING = "preparing"
    COLLECTING = "collecting"
    DISTILLING = "distilling"
    EVALUATING = "evaluating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ParticipationState(StrEnum):
    """Where one client's part in one round is."""

    INVITED = "invited"
    TRAINING = "training"
    DELIVERED = "delivered"
    DROPPED = "dropped"
    REJECTED = "rejected"


class StageState(StrEnum):
    """Where one unit of distiller work is. `running` means claimed; a claim that goes silent is claimed anew."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = TypeVar("S", bound=StrEnum)


def _with_exits(
    steps: Mapping[RoundState, tuple[RoundState, ...]],
) -> dict[RoundState, frozenset[RoundState]]:
    exits = (RoundState.FAILED, RoundState.CANCELLED)
    table = {state: frozenset((*targets, *exits)) for state, targets in steps.items()}
    return table | {state: frozenset() for state in (RoundState.COMPLETED, *exits)}


ROUND_TRANSITIONS: Mapping[RoundState, frozenset[RoundState]] = _with_exits(
    {
        RoundState.QUEUED: (RoundState.PREPARING,),
        RoundState.PREPARING: (RoundState.COLLECTING,),
        RoundState.COLLECTING: (RoundState.DISTILLING,),
        RoundState.DISTILLING: (RoundState.EVALUATING,),
        RoundState.EVALUATING: (RoundState.COMPLETED,),
    }
)

_P = ParticipationState
PARTICIPATION_TRANSITIONS: Mapping[ParticipationState, frozenset[ParticipationState]] = {
    _P.INVITED: frozenset({_P.TRAINING, _P.DELIVERED, _P.DROPPED, _P.REJECTED}),
    _P.TRAINING: frozenset({_P.DELIVERED, _P.DROPPED, _P.REJECTED}),
    # What was delivered is asked for again where the store has lost it before it counted, or given up.
    _P.DELIVERED: frozenset({_P.INVITED, _P.REJECTED}),
    _P.DROPPED: frozenset(),
    _P.REJECTED: frozenset(),
}

OPEN_PARTICIPATION_STATES: frozenset[ParticipationState] = frozenset({_P.INVITED, _P.TRAINING})
"""The round waits for these."""

_S = StageState
STAGE_TRANSITIONS: Mapping[StageState, frozenset[StageState]] = {
    _S.PENDING: frozenset({_S.RUNNING, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.RUNNING, _S.PENDING, _S.DONE, _S.FAILED, _S.CANCELLED}),
    _S.DONE: frozenset(),
    _S.FAILED: frozenset(),
    # A fold whose client delivers once more.
    _S.CANCELLED: frozenset({_S.PENDING}),
}

OPEN_ROUND_STATES: frozenset[RoundState] = frozenset(state for state, targets in ROUND_TRANSITIONS.items() if targets)


def is_terminal(table: Mapping[S, frozenset[S]], state: S) -> bool:
    """True if nothing follows `state` in `table`."""
    return not table[state]


def check_transition(table: Mapping[S, frozenset[S]], old: S, new: S) -> None:
    """Raise IllegalTransitionError unless `table` allows going from `old` to `new`."""
    if new not in table[old]:
        raise IllegalTransitionError(old=old.value, new=new.value)
