"""One look at one round: its session, its row, and the token of the lease under which it is moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.config import FederationConfig
from fedafd.domain.states import ParticipationState, RoundState
from fedafd.persistence.artifact_repository import artifact_size
from fedafd.persistence.models import RoundRow, utc_now
from fedafd.persistence.participation_repository import list_participations, settle_participation
from fedafd.persistence.round_repository import config_of_round, transition_round
from fedafd.persistence.stage_repository import cancel_stages

__all__ = ["COORDINATOR", "Step"]

COORDINATOR = "coordinator"
"""Actor of the coordinator's events."""
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Step:
    """What a step works with."""

    session: AsyncSession
    row: RoundRow
    token: int
    alive_since: datetime | None = None
    """Distillers that were not heard of since then are lost; None: too early to tell."""
    listening_since: datetime | None = None
    """From when on the coordinator could hear; None: always. What nobody could tell before is no silence."""
    store_trouble: str = ""
    """Why the store takes no writes at the moment, if so."""
    lost: list[str] = field(default_factory=list)
    """Kinds of the stages that this step found lost, for the metrics."""
    dropped: list[str] = field(default_factory=list)
    """Ids of the clients that this step dropped, whose task is another now."""

    @cached_property
    def config(self) -> FederationConfig:
        """The configuration that the round was queued with."""
        return config_of_round(self.row)

    @property
    def silent_since(self) -> datetime:
        """Who was not heard of since then is silent for too long."""
        since = utc_now() - timedelta(seconds=self.config.idle_timeout_seconds)
        heard_all = self.listening_since is None or self.listening_since <= since
        return since if heard_all else _NEVER

    async def move(self, new: RoundState, **values: Any) -> bool:
        """Move the round; False if it has moved on or a newer coordinator has it."""
        return await transition_round(self.session, self.row, new, token=self.token, actor=COORDINATOR, **values)

    async def fail(self, reason: str) -> bool:
        """End the round as failed; the current model version stays as it is."""
        if not await self.move(RoundState.FAILED, reason=reason):
            return False
        await cancel_stages(self.session, self.row.id)
        await self.drop_open("the round failed")
        return True

    async def drop_open(self, reason: str) -> None:
        """End participations that are still open as dropped."""
        for participation, _ in await list_participations(self.session, self.row.id):
            await settle_participation(self.session, participation.id, ParticipationState.DROPPED, reason=reason)

    async def artifact_size(self, key: str) -> int:
        """Length of a registered artifact in bytes; 0 if it is not registered."""
        return await artifact_size(self.session, key)
