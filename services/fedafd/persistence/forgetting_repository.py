"""What a client sent, to be deleted on request: asked for in its row, so that whoever takes over goes on with it.

The rows go in one transaction, which leaves the objects' keys and the receipt in the client's row; then the objects go;
then the receipt is written to the audit log. Each step may be done twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.contributions import without_contribution
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import StageKind, UploadPurpose
from fedafd.domain.states import OPEN_ROUND_STATES, StageState
from fedafd.persistence.artifact_repository import artifacts_of, forget_artifacts
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import (
    ArtifactRow,
    ClientRow,
    ModelFileRow,
    ParticipationRow,
    PersonalizedModelRow,
    RoundRow,
    StageRow,
    UploadRow,
    utc_now,
)

__all__ = ["ask_to_forget", "finish_forgetting", "forget_rows", "next_to_forget", "round_in_the_way"]

_OPEN = sorted(state.value for state in OPEN_ROUND_STATES)
_KEYS, _ASKED = "keys", "asked_at"
"""What the row keeps beside the receipt until the objects are gone: which, and for which request they are deleted."""
_MOST_HASHES = 1000
"""Named one by one in a receipt; `sha256_of_all` covers the others."""


def ask_to_forget(session: AsyncSession, row: ClientRow, actor: str) -> None:
    """Note that what the client sent is to be deleted. Nothing changes where that was noted and is not begun yet.

    Where it has begun, its rows are chosen: what the client sent since is for another turn, with a receipt of its own.
    """
    if row.forget_requested_at is not None and not _has_begun(row):
        return
    row.forget_requested_at = utc_now()
    data: dict[str, Any] = {"federation_id": row.federation_id, "actor": actor, "client": row.name}
    record_event(session, "client.forget_requested", **data)


async def round_in_the_way(session: AsyncSession, client_id: str) -> int | None:
    """Number of the running round that has the client in it, which may use what it sent; None where none has."""
    query = select(func.min(RoundRow.number)).join(ParticipationRow, ParticipationRow.round_id == RoundRow.id)
    return await session.scalar(query.where(ParticipationRow.client_id == client_id, RoundRow.state.in_(_OPEN)))


async def next_to_forget(session: AsyncSession) -> ClientRow | None:
    """A client that was asked for and that no running round keeps; the one that was asked for first."""
    running = select(ParticipationRow.client_id).join(RoundRow, ParticipationRow.round_id == RoundRow.id)
    query = select(ClientRow).where(
        ClientRow.forget_requested_at.is_not(None), ClientRow.id.not_in(running.where(RoundRow.state.in_(_OPEN)))
    )
    return await session.scalar(query.order_by(ClientRow.forget_requested_at, ClientRow.id).limit(1))


async def forget_rows(session: AsyncSession, row: ClientRow) -> Sequence[str]:
    """Delete all rows that name what the client sent, if that was not done yet; keys of the objects that have to go."""
    row = await session.get_one(ClientRow, row.id, populate_existing=True)
    if row.forgotten is not None and _has_begun(row):
        keys: Sequence[str] = row.forgotten[_KEYS]
        return keys
    artifacts = await _artifacts(session, row.id)
    models = (await session.scalars(select(PersonalizedModelRow).where(PersonalizedModelRow.client_id == row.id))).all()
    files = (
        await session.scalars(
            select(ModelFileRow).join(PersonalizedModelRow).where(PersonalizedModelRow.client_id == row.id)
        )
    ).all()
    there = select(func.count()).select_from(ParticipationRow).where(ParticipationRow.client_id == row.id)
    with_metrics = or_(ParticipationRow.metrics.is_not(None), ParticipationRow.num_private_samples.is_not(None))
    folded = await _folded(session, row.id)
    blobs = [(artifact.key, artifact.sha256, artifact.size_bytes) for artifact in (*artifacts, *folded)]
    blobs += [(file.key, file.sha256, file.size_bytes) for file in files]
    receipt = _receipt(blobs) | {
        "representations": sum(artifact.purpose != UploadPurpose.WEIGHTS.value for artifact in artifacts),
        "weights": sum(artifact.purpose == UploadPurpose.WEIGHTS.value for artifact in artifacts),
        "folds": len(folded),
        "personalized_models": len(models),
        "rounds_with_metrics": await session.scalar(there.where(with_metrics)) or 0,
    }
    keys = sorted({key for key, _, _ in blobs})
    await forget_artifacts(session, [*artifacts, *folded])
    mine = select(PersonalizedModelRow.id).where(PersonalizedModelRow.client_id == row.id)
    await session.execute(delete(ModelFileRow).where(ModelFileRow.personalized_model_id.in_(mine)))
    await session.execute(delete(PersonalizedModelRow).where(PersonalizedModelRow.client_id == row.id))
    await session.execute(delete(UploadRow).where(UploadRow.client_id == row.id))
    nothing = {"metrics": null(), "contributions": null(), "num_private_samples": None, "representations_sha256": None}
    await session.execute(update(ParticipationRow).where(ParticipationRow.client_id == row.id).values(**nothing))
    await _forget_measurements(session, row.id)
    row.forgotten = receipt | {_KEYS: keys, _ASKED: _text(row.forget_requested_at)}
    return keys


async def finish_forgetting(session: AsyncSession, row: ClientRow) -> Mapping[str, Any] | None:
    """Write the receipt, once the objects are gone; None where somebody else has."""
    row = await session.get_one(ClientRow, row.id, populate_existing=True)
    if row.forgotten is None or not _has_begun(row):
        return None
    receipt = {name: value for name, value in row.forgotten.items() if name not in (_KEYS, _ASKED)}
    if row.forgotten.get(_ASKED) in (None, _text(row.forget_requested_at)):
        row.forget_requested_at = None  # else somebody asked again meanwhile
    row.forgotten, row.forgotten_at = receipt, utc_now()
    record_event(
        session, "client.forgotten", federation_id=row.federation_id, actor="coordinator", client=row.name, **receipt
    )
    return receipt


def _has_begun(row: ClientRow) -> bool:
    """Whether its rows are gone, and its objects are being deleted."""
    return row.forgotten is not None and _KEYS in row.forgotten


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


async def _forget_measurements(session: AsyncSession, client_id: str) -> None:
    """What the client weighed, as the stages that weigh cohorts measured it; the others' figures stay as they are."""
    weighings = select(StageRow.id, ParticipationRow.position).join(
        ParticipationRow, ParticipationRow.round_id == StageRow.round_id
    )
    mine = weighings.where(ParticipationRow.client_id == client_id, StageRow.kind == StageKind.WEIGH.value)
    for stage_id, position in (await session.execute(mine)).all():
        figures = await session.scalar(select(StageRow.metrics).where(StageRow.id == stage_id))
        if figures:
            left = without_contribution(figures, position)
            await session.execute(update(StageRow).where(StageRow.id == stage_id).values(metrics=left))


async def _artifacts(session: AsyncSession, client_id: str) -> list[ArtifactRow]:
    """Those that the client sent; not what another client sent with the same bytes, in the same round."""
    artifacts = (await session.scalars(select(ArtifactRow).where(ArtifactRow.client_id == client_id))).all()
    others = select(ParticipationRow.round_id, ParticipationRow.representations_sha256).where(
        ParticipationRow.client_id != client_id,
        ParticipationRow.round_id.in_({artifact.round_id for artifact in artifacts}),
        ParticipationRow.representations_sha256.in_({artifact.sha256 for artifact in artifacts}),
    )
    shared = {(round_id, sha256) for round_id, sha256 in await session.execute(others)} if artifacts else set()
    return [artifact for artifact in artifacts if (artifact.round_id, artifact.sha256) not in shared]


async def _folded(session: AsyncSession, client_id: str) -> list[ArtifactRow]:
    """What folds made of the client's rows alone, and is still there: the rows can be read from it.

    Not what another client's fold made with the same bytes, in the same round; nor the only fold of a region's round,
    which is what the region sends on, and may be asked for once more.
    """
    stages = await _folds(session, ParticipationRow.client_id == client_id)
    there = await artifacts_of(session, sorted({key for stage in stages for key in _keys_of(stage)}))
    rounds = {artifact.round_id for artifact in there}
    kept: set[str] = set()
    for row in await session.scalars(select(RoundRow).where(RoundRow.id.in_(rounds))):
        others = await _folds(session, ParticipationRow.client_id != client_id, StageRow.round_id == row.id)
        kept.update(key for stage in others for key in _keys_of(stage))
        for stage in stages:
            if stage.round_id == row.id and row.upstream_round_id is not None:
                kept.update(() if any(fold.modality == stage.modality for fold in others) else _keys_of(stage))
    return [artifact for artifact in there if artifact.key not in kept]


async def _folds(session: AsyncSession, *which: ColumnElement[bool]) -> Sequence[StageRow]:
    """Folds that are done, of some clients and rounds."""
    of_part = (ParticipationRow.round_id == StageRow.round_id) & (ParticipationRow.position == StageRow.position)
    done = StageRow.kind == StageKind.FOLD.value, StageRow.state == StageState.DONE.value
    return (await session.scalars(select(StageRow).join(ParticipationRow, of_part).where(*done, *which))).all()


def _keys_of(stage: StageRow) -> list[str]:
    return [entry["key"] for entry in (stage.outputs or {}).values()]


def _receipt(blobs: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """Of keys, hashes and lengths."""
    hashes = sorted(sha256 for _, sha256, _ in blobs)
    return {
        "objects": len(blobs),
        "size_bytes": sum(size for _, _, size in blobs),
        "sha256": hashes[:_MOST_HASHES],
        "sha256_of_all": sha256_of("\n".join(hashes).encode()),
    }
