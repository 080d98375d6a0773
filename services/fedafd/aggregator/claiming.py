"""Claims of stages: the one that a message tells of, and the one with which a distiller goes on.

Who completes a stage gets the round's next one with the answer: the coordinator of this process moves the round at
once, and what it adds is claimed before anybody is told of it. Where another aggregator coordinates, or anything is in
the way, nobody is given anything, and a message tells of the stage as always. A distiller that dies with a stage that
it was given this way loses it like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.kinds import CLAIMED_TOGETHER, FOLDS_TOGETHER, StageKind
from fedafd.domain.states import StageState
from fedafd.persistence.models import RoundRow, StageRow, utc_now
from fedafd.persistence.outbox_repository import mark_taken
from fedafd.persistence.round_repository import config_of_round
from fedafd.persistence.stage_repository import (
    claim_companions,
    claim_row,
    has_open_folds,
    next_stage,
)
from fedafd.telemetry.logging import get_logger

if TYPE_CHECKING:
    from fedafd.aggregator.context import Context

__all__ = ["Claimed", "Mover", "claim", "claim_next"]

_MOVE_SECONDS = 5.0
"""How long a distiller waits for the round to move, and then for a message."""
_log = get_logger(__name__)


class Mover:
    """Moves a round on at once, where this process coordinates."""

    def __init__(self) -> None:
        self.move: Callable[[RoundRow], Awaitable[bool]] | None = None
        """Of the coordinator: False if it does not lead."""


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A stage that a worker holds, and what it holds with it."""

    stage: StageRow
    row: RoundRow
    token: int
    companions: Sequence[StageRow]
    announced_at: Sequence[datetime]
    """Of those that were not held before."""


async def claim(session: AsyncSession, stage: StageRow, row: RoundRow, worker: str, most_companions: int) -> Claimed:
    """Claim the stage, and others of its kind and round with it. Raises StageLostError."""
    config = config_of_round(row)
    silent_since = utc_now() - timedelta(seconds=config.idle_timeout_seconds)
    announced = [stage.last_progress_at] if stage.state == StageState.PENDING.value else []
    token = await claim_row(session, stage, worker, silent_since)
    companions: Sequence[StageRow] = ()
    if stage.kind in CLAIMED_TOGETHER and most_companions > 0:
        companions, theirs = await claim_companions(session, stage, worker, most_companions)
        announced += theirs
    return Claimed(stage=stage, row=row, token=token, companions=companions, announced_at=announced)


async def claim_next(context: Context, row: RoundRow, done: StageRow) -> Claimed | None:
    """What the worker, who has just completed that stage of the round, goes on with; None if there is nothing.

    Nothing comes of a fold while others are open, and a look at a large round is no small thing.
    """
    move, worker = context.mover.move, done.worker
    if move is None or worker is None or context.draining.is_set():
        return None
    try:
        async with asyncio.timeout(_MOVE_SECONDS):
            if done.kind == StageKind.FOLD and await _more_folds(context, row):
                return None
            if not await move(row):
                return None
            async with context.database.transaction() as session:
                stage = await next_stage(session, row.id, worker)
                if stage is None:
                    return None
                claimed = await claim(session, stage, row, worker, FOLDS_TOGETHER - 1)
                await mark_taken(session, [stage.id, *(companion.id for companion in claimed.companions)])
                return claimed
    except Exception as error:
        # What was completed is completed, and is answered; a message tells of what comes next.
        _log.info("stage.next_not_claimed", reason=str(error) or type(error).__name__)
        return None


async def _more_folds(context: Context, row: RoundRow) -> bool:
    async with context.database.snapshot() as session:
        return await has_open_folds(session, row.id)
