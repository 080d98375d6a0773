"""What ends together is written together: stages that a distiller completes, and deliveries of one moment.

The rows are read and locked by one statement, and written by one that a driver repeats for each row. It is compiled
once: building a statement anew for each row costs many times what running it does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.states import ParticipationState, StageState
from fedafd.persistence.first_moments import first_moment
from fedafd.persistence.models import ParticipationRow, StageRow, utc_now
from fedafd.persistence.participation_repository import OPEN_PARTICIPATIONS

__all__ = ["Completion", "complete_stages", "deliver_participations"]

_STAGES = cast("Table", StageRow.__table__)
_PARTS = cast("Table", ParticipationRow.__table__)
_CLAIMS = (
    select(_STAGES.c.id, _STAGES.c.attempt, _STAGES.c.state, _STAGES.c.worker)
    .where(_STAGES.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(_STAGES.c.id)
    .with_for_update()
)
_COMPLETE = (
    update(_STAGES)
    .where(_STAGES.c.id == bindparam("stage_id"))
    .values(
        state=StageState.DONE.value,
        progress=1.0,
        outputs=bindparam("stage_outputs"),
        metrics=bindparam("stage_metrics"),
        finished_at=bindparam("at"),
    )
)
_WAITED_FOR = (
    select(_PARTS.c.id)
    .where(_PARTS.c.id.in_(bindparam("ids", expanding=True)), _PARTS.c.state.in_(OPEN_PARTICIPATIONS))
    .order_by(_PARTS.c.id)
    .with_for_update()
)
_MERGED = ("bytes_up", "bytes_down", "trains_since", "sends_since")
_DELIVER = (
    update(_PARTS)
    .where(_PARTS.c.id == bindparam("participation_id"))
    .values(
        state=ParticipationState.DELIVERED.value,
        progress=1.0,
        bytes_up=_PARTS.c.bytes_up + bindparam("more_up"),
        bytes_down=_PARTS.c.bytes_down + bindparam("more_down"),
        trains_since=first_moment(_PARTS.c.trains_since, "trains_at"),
        sends_since=first_moment(_PARTS.c.sends_since, "sends_at"),
        **{
            name: bindparam(f"new_{name}")
            for name in (
                "settled_at",
                "receipt",
                "metrics",
                "num_private_samples",
                "representations_sha256",
                "region_clients",
            )
        },
    )
)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A claimed stage that is done."""

    stage_id: str
    token: int
    outputs: Mapping[str, ArtifactRef]
    metrics: Mapping[str, float]


async def complete_stages(session: AsyncSession, completions: Sequence[Completion]) -> frozenset[str]:
    """Settle claimed stages as done, each by the holder of its token; ids of those that were not, as their claim is
    lost. One that the same holder has completed before is done, and stays as it is."""
    connection = await session.connection()
    claim_rows = await connection.execute(_CLAIMS, {"ids": [completion.stage_id for completion in completions]})
    claims = {claim.id: claim for claim in claim_rows}
    kept, lost = list[Completion](), set[str]()
    for completion in completions:
        claim = claims.get(completion.stage_id)
        if claim is None or claim.attempt != completion.token:
            lost.add(completion.stage_id)
        elif claim.state == StageState.RUNNING.value or _is_cut_off(claim):
            kept.append(completion)
        elif claim.state != StageState.DONE.value:
            lost.add(completion.stage_id)
    now = utc_now()
    ended: list[dict[str, Any]] = [
        {
            "stage_id": completion.stage_id,
            "stage_outputs": dict(completion.outputs),
            "stage_metrics": dict(completion.metrics),
            "at": now,
        }
        for completion in kept
    ]
    if ended:
        await connection.execute(_COMPLETE, ended)
    return frozenset(lost)


def _is_cut_off(claim: Any) -> bool:
    """Whether its holder was taken for lost, and nobody else has claimed it since."""
    return claim.state == StageState.PENDING.value and claim.worker is not None


async def deliver_participations(
    session: AsyncSession, deliveries: Mapping[str, Mapping[str, Any]], settled_at: datetime
) -> Collection[str]:
    """Settle participations as delivered; ids of those that waited for it, as others stay as they are.

    Of each by its id the values of its columns; but `bytes_up` and `bytes_down` are added, and of `trains_since` and
    `sends_since` the first that was written stays.
    """
    connection = await session.connection()
    open_ids = await connection.scalars(_WAITED_FOR, {"ids": list(deliveries)})
    waited_for = frozenset(open_ids)
    rows = [
        {
            "participation_id": key,
            "more_up": values["bytes_up"],
            "more_down": values["bytes_down"],
            "trains_at": values.get("trains_since"),
            "sends_at": values.get("sends_since"),
            "new_settled_at": settled_at,
        }
        | {f"new_{name}": value for name, value in values.items() if name not in _MERGED}
        for key, values in deliveries.items()
        if key in waited_for
    ]
    if rows:
        await connection.execute(_DELIVER, rows)
    return waited_for
