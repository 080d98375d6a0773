"""A delivery that the store has lost or damaged before it was folded: its client is asked again, or left out."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.aggregator.step import COORDINATOR
from fedafd.artifacts.stage_io import is_client_representations
from fedafd.domain.kinds import StageKind, UploadPurpose
from fedafd.domain.states import ParticipationState, RoundState
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import RoundRow, StageRow
from fedafd.persistence.participation_repository import participation_at, reopen_participation

__all__ = ["MAX_LOST_DELIVERIES", "take_back"]

MAX_LOST_DELIVERIES = 3
"""A client is left out of the round when this many of its deliveries were lost."""
_DELIVERED = (UploadPurpose.REPRESENTATIONS, UploadPurpose.MERGED_STATES)


async def take_back(session: AsyncSession, stage: StageRow, row: RoundRow, bad_input: str) -> str | None:
    """The client whose lost delivery a fold needed, once it counts no more; None if that is not what failed.

    The round goes on without the fold until the client has delivered again. What came in an earlier round is not asked
    for again.
    """
    if stage.kind != StageKind.FOLD.value or row.state != RoundState.COLLECTING.value:
        return None
    if bad_input not in _DELIVERED and not is_client_representations(bad_input):
        return None
    part, client = await participation_at(session, row.id, stage.position)
    again = stage.failures + 1 < MAX_LOST_DELIVERIES
    new = ParticipationState.INVITED if again else ParticipationState.REJECTED
    words = {} if again else {"reason": f"the object store lost its delivery {MAX_LOST_DELIVERIES} times"}
    if await reopen_participation(session, part.id, new, **words):
        record_event(
            session,
            "delivery.lost",
            federation_id=row.federation_id,
            actor=COORDINATOR,
            round=row.number,
            client=client.name,
            asked_again=again,
        )
    return client.id
