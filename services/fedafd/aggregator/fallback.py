"""A server state that is lost or damaged: the round starts from the newest version behind it whose state is whole.

Behind a version are those that it was trained from. A newer one that an operator has left by a rollback is not.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.aggregator.step import COORDINATOR
from fedafd.artifacts.ref import ArtifactRef
from fedafd.artifacts.stage_io import SERVER_STATE, server_state_ref
from fedafd.domain.kinds import StageKind
from fedafd.persistence.artifact_repository import artifact_size
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.model_repository import version_behind
from fedafd.persistence.models import RoundRow, StageRow

__all__ = ["older_inputs"]


async def older_inputs(
    session: AsyncSession, stage: StageRow, row: RoundRow, bad_input: str, reason: str
) -> dict[str, ArtifactRef] | None:
    """Inputs of a preparing stage whose server state cannot be used, with the next older one; None if there is none."""
    if stage.kind != StageKind.PREPARE.value or bad_input != SERVER_STATE or SERVER_STATE not in stage.inputs:
        return None
    older = await version_behind(session, row.federation_id, row.base_version, stage.inputs[SERVER_STATE]["key"])
    if older is None:
        return None
    record_event(
        session,
        "model.state_unusable",
        federation_id=row.federation_id,
        actor=COORDINATOR,
        round=row.number,
        version=row.base_version,
        goes_on_from=older.version,
        reason=reason,
    )
    row.base_version = older.version
    return stage.inputs | {
        SERVER_STATE: server_state_ref(
            older.state_key, older.state_sha256, await artifact_size(session, older.state_key)
        )
    }
