"""JSON of drain mode."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from fedafd.domain.states import RoundState
from fedafd.persistence.models import DrainRow, RoundRow

__all__ = ["Drain", "RunningRound", "StartDrain"]


class StartDrain(BaseModel):
    """Why."""

    reason: str | None = Field(None, max_length=500, examples=["upgrade to 0.2"], description="For the audit log.")


class RunningRound(BaseModel):
    """A round that has started and is not over."""

    federation: str
    number: int
    state: RoundState


class Drain(BaseModel):
    """Whether queued rounds are held, and what still runs. Drained is: `draining` and no `running`."""

    draining: bool
    since: datetime | None = None
    actor: str | None = None
    reason: str | None = None
    running: list[RunningRound] = Field(description="Rounds that have started and are not over.")

    @classmethod
    def of(cls, row: DrainRow | None, open_rounds: Sequence[RoundRow]) -> Self:
        """From the rows."""
        running = [
            RunningRound(federation=row.federation_id, number=row.number, state=RoundState(row.state))
            for row in open_rounds
            if row.state != RoundState.QUEUED.value
        ]
        if row is None:
            return cls(draining=False, running=running)
        return cls(draining=True, since=row.since, actor=row.actor, reason=row.reason, running=running)
