"""What the sites of a round download, lost or damaged in the store: the preparing stage is done once more.

It is the same work on the same inputs, so its outputs have the same keys and the same bits. The round itself does not
wait: who has what it needs goes on, and the others are told to ask again.
"""

from __future__ import annotations

import asyncio

from fedafd.aggregator.context import Context
from fedafd.aggregator.step import COORDINATOR
from fedafd.domain.errors import ArtifactCorruptError, ArtifactNotFoundError, StorageUnavailableError
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import StageState
from fedafd.persistence.caller_repository import WaitingPart
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import RoundRow
from fedafd.persistence.stage_repository import add_stage, list_stages
from fedafd.proto.v1 import types_pb2
from fedafd.storage.store import get_verified

__all__ = ["check_stored", "make_again"]

_MOST_TIMES = 3
_OPEN = (StageState.PENDING.value, StageState.RUNNING.value)


async def check_stored(context: Context, artifact: types_pb2.Artifact, part: WaitingPart) -> None:
    """Read the object. Raises as `make_again` if it is not whole."""
    try:
        await asyncio.to_thread(get_verified, context.store, artifact.key, artifact.sha256)
    except (ArtifactCorruptError, ArtifactNotFoundError) as error:
        await make_again(context, artifact, part, error)


async def make_again(
    context: Context,
    artifact: types_pb2.Artifact,
    part: WaitingPart,
    error: ArtifactCorruptError | ArtifactNotFoundError,
) -> None:
    """Have it made again. Raises StorageUnavailableError meanwhile, and `error` if nobody can, or it does not help."""
    row = await context.rounds.row(context.database, part.round_id)
    if row.upstream_round_id is not None:
        # It came from the upper federation, and the region's process puts it here again where it is missing.
        await asyncio.to_thread(context.store.delete, artifact.key)
    elif not await _begins_again(context, row, artifact):
        raise error
    context.progress.moved(row.federation_id, part.id)
    context.wakeups.changed(row.federation_id, clients=())
    raise StorageUnavailableError(f"object {artifact.key}: was lost or damaged, and is being made again")


async def _begins_again(context: Context, row: RoundRow, artifact: types_pb2.Artifact) -> bool:
    """Begin the preparing stage once more, unless it has begun; whether it has now."""
    async with context.database.transaction() as session:
        stages = [s for s in await list_stages(session, row.id) if s.kind == StageKind.PREPARE.value]
        first = next((s for s in stages if s.level == 0), None)
        if first is None or all(entry["key"] != artifact.key for entry in (first.outputs or {}).values()):
            return False
        again = [s for s in stages if s.level > 0]
        if any(s.state in _OPEN for s in again):
            return True
        if len(again) >= _MOST_TIMES:
            return False
        level = len(again) + 1
        if await add_stage(session, row.id, StageKind.PREPARE, first.inputs, level=level) is None:
            return True  # another aggregator was quicker
        record_event(
            session,
            "artifact.unusable",
            federation_id=row.federation_id,
            actor=COORDINATOR,
            round=row.number,
            key=artifact.key,
            maker=first.kind,
        )
        return True
