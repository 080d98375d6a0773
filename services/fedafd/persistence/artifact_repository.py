"""Artifacts by hash, and uploads on their way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.errors import NotFoundError
from fedafd.domain.kinds import UploadPurpose
from fedafd.domain.states import ParticipationState
from fedafd.persistence.models import ArtifactRow, ClientRow, ParticipationRow, RoundRow, UploadRow

__all__ = [
    "add_artifact",
    "add_upload",
    "artifact_size",
    "count_uploads",
    "earlier_representations",
    "find_upload",
    "forget_artifacts",
    "get_upload",
    "round_artifacts",
]

_OF_A_STATEMENT = 500


async def add_artifact(
    session: AsyncSession, federation_id: str, entry: dict[str, Any], *, round_id: str, client_id: str | None = None
) -> None:
    """Register a stored blob, {sha256, size_bytes, purpose, key}; harmless if it is registered already."""
    same = select(ArtifactRow.id).where(ArtifactRow.federation_id == federation_id, ArtifactRow.key == entry["key"])
    if await session.scalar(same) is None:
        session.add(ArtifactRow(federation_id=federation_id, round_id=round_id, client_id=client_id, **entry))
        await session.flush()


async def forget_artifacts(session: AsyncSession, rows: Sequence[ArtifactRow]) -> None:
    """Name them no more."""
    ids = [row.id for row in rows]
    for start in range(0, len(ids), _OF_A_STATEMENT):
        await session.execute(delete(ArtifactRow).where(ArtifactRow.id.in_(ids[start : start + _OF_A_STATEMENT])))


async def round_artifacts(session: AsyncSession, round_id: str, purpose: str) -> list[dict[str, Any]]:
    """Entries of a round's artifacts of one purpose that clients sent, in the order of the clients' names."""
    query = (
        select(ArtifactRow)
        .join(ClientRow, ArtifactRow.client_id == ClientRow.id)
        .where(ArtifactRow.round_id == round_id, ArtifactRow.purpose == purpose)
        .order_by(ClientRow.name)
    )
    return [_entry(row) for row in (await session.scalars(query)).all()]


def _entry(row: ArtifactRow) -> dict[str, Any]:
    return {"sha256": row.sha256, "size_bytes": row.size_bytes, "purpose": row.purpose, "key": row.key}


async def earlier_representations(
    session: AsyncSession, client_id: str, row: RoundRow, max_rounds: int
) -> tuple[dict[str, Any], int] | None:
    """The entry of what a client delivered last before `row`, and how many rounds ago; None if there is nothing.

    Only of the same public set, written as this round's configuration says, and at most `max_rounds` rounds old.
    """
    # By the participation: clients that sent the same bytes share one artifact.
    sent = (ArtifactRow.round_id == ParticipationRow.round_id) & (
        ArtifactRow.sha256 == ParticipationRow.representations_sha256
    )
    query = (
        select(ArtifactRow, RoundRow)
        .join(ParticipationRow, sent)
        .join(RoundRow, ParticipationRow.round_id == RoundRow.id)
        .where(
            ParticipationRow.client_id == client_id,
            ParticipationRow.state == ParticipationState.DELIVERED.value,
            ArtifactRow.purpose == UploadPurpose.REPRESENTATIONS.value,
            RoundRow.federation_id == row.federation_id,
            RoundRow.public_set_sha256 == row.public_set_sha256,
            RoundRow.number < row.number,
            RoundRow.number >= row.number - max_rounds,
        )
        .order_by(RoundRow.number.desc())
    )
    for artifact, made in (await session.execute(query)).all():
        if all(made.config.get(name) == row.config.get(name) for name in ("wire_dtype", "embedding_dim")):
            return _entry(artifact), row.number - made.number
    return None


async def find_upload(
    session: AsyncSession, round_id: str, client_id: str, sha256: str, purpose: str
) -> UploadRow | None:
    """The upload of that blob, or None."""
    query = select(UploadRow).where(
        UploadRow.round_id == round_id,
        UploadRow.client_id == client_id,
        UploadRow.sha256 == sha256,
        UploadRow.purpose == purpose,
    )
    return await session.scalar(query)


async def add_upload(session: AsyncSession, row: UploadRow) -> UploadRow:
    """Announce an upload."""
    session.add(row)
    await session.flush()
    return row


async def count_uploads(session: AsyncSession, round_id: str, client_id: str) -> tuple[int, int]:
    """How many uploads the client announced in the round, and their bytes together."""
    mine = select(func.count(), func.coalesce(func.sum(UploadRow.size_bytes), 0)).where(
        UploadRow.round_id == round_id, UploadRow.client_id == client_id
    )
    count, size = (await session.execute(mine)).one()
    return int(count), int(size)


async def get_upload(session: AsyncSession, upload_id: str, client_id: str) -> UploadRow:
    """A client's own upload. Raises NotFoundError, also for another client's."""
    row = await session.get(UploadRow, upload_id)
    if row is None or row.client_id != client_id:
        raise NotFoundError(f"upload {upload_id}: does not exist; begin it first", upload_id=upload_id)
    return row


async def artifact_size(session: AsyncSession, key: str) -> int:
    """Length of a registered artifact in bytes; 0 if it is not registered."""
    return await session.scalar(select(ArtifactRow.size_bytes).where(ArtifactRow.key == key).limit(1)) or 0
