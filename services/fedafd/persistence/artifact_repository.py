"""Artifacts by hash, and uploads on their way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Table, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.errors import NotFoundError
from fedafd.domain.kinds import UploadPurpose
from fedafd.domain.states import ParticipationState
from fedafd.persistence.models import ArtifactRow, ClientRow, ParticipationRow, RoundRow, UploadRow

__all__ = [
    "NewArtifact",
    "add_artifacts",
    "artifact_size",
    "artifacts_of",
    "earlier_representations",
    "forget_artifacts",
    "get_upload",
    "round_artifacts",
    "uploads_of",
]

_OF_A_STATEMENT = 500


_UPLOADS_OF = (
    select(UploadRow)
    .where(
        UploadRow.round_id.in_(bindparam("rounds", expanding=True)),
        UploadRow.client_id.in_(bindparam("clients", expanding=True)),
    )
    .order_by(UploadRow.created_at, UploadRow.id)
)
_ARTIFACTS = cast("Table", ArtifactRow.__table__)
_REGISTER = {
    "sqlite": sqlite.insert(_ARTIFACTS).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(_ARTIFACTS).on_conflict_do_nothing(),
}
"""One statement by dialect. To look first what is there would not tell what another aggregator registers meanwhile."""


@dataclass(frozen=True)
class NewArtifact:
    """A stored blob, {sha256, size_bytes, purpose, key}, and to what it belongs."""

    federation_id: str
    entry: ArtifactRef
    round_id: str
    client_id: str | None = None


async def add_artifacts(session: AsyncSession, artifacts: Sequence[NewArtifact]) -> None:
    """Register stored blobs; harmless for one that is registered already. Of several with one key the first counts."""
    if not artifacts:
        return
    # By key: two aggregators that register the same blobs wait for each other in one order.
    rows = [
        {
            "federation_id": artifact.federation_id,
            "round_id": artifact.round_id,
            "client_id": artifact.client_id,
            **artifact.entry,
        }
        for artifact in sorted(artifacts, key=lambda one: one.entry["key"])
    ]
    await session.flush()  # what they belong to comes first
    connection = await session.connection()
    await connection.execute(_REGISTER[connection.dialect.name], rows)


async def artifacts_of(session: AsyncSession, keys: Sequence[str]) -> list[ArtifactRow]:
    """Those that are registered under these keys."""
    registered: list[ArtifactRow] = []
    for start in range(0, len(keys), _OF_A_STATEMENT):
        some = ArtifactRow.key.in_(keys[start : start + _OF_A_STATEMENT])
        registered += await session.scalars(select(ArtifactRow).where(some))
    return registered


async def forget_artifacts(session: AsyncSession, rows: Sequence[ArtifactRow]) -> None:
    """Name them no more."""
    ids = [row.id for row in rows]
    for start in range(0, len(ids), _OF_A_STATEMENT):
        await session.execute(delete(ArtifactRow).where(ArtifactRow.id.in_(ids[start : start + _OF_A_STATEMENT])))


async def round_artifacts(session: AsyncSession, round_id: str, purpose: str) -> list[ArtifactRef]:
    """Entries of a round's artifacts of one purpose that clients sent, in the order of the clients' names."""
    query = (
        select(ArtifactRow)
        .join(ClientRow, ArtifactRow.client_id == ClientRow.id)
        .where(ArtifactRow.round_id == round_id, ArtifactRow.purpose == purpose)
        .order_by(ClientRow.name)
    )
    return [_entry(row) for row in (await session.scalars(query)).all()]


def _entry(row: ArtifactRow) -> ArtifactRef:
    return {"sha256": row.sha256, "size_bytes": row.size_bytes, "purpose": row.purpose, "key": row.key}


async def earlier_representations(
    session: AsyncSession, client_id: str, row: RoundRow, max_rounds: int
) -> tuple[ArtifactRef, int] | None:
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
    for artifact, earlier_row in (await session.execute(query)).all():
        if all(earlier_row.config.get(name) == row.config.get(name) for name in ("wire_dtype", "embedding_dim")):
            return _entry(artifact), row.number - earlier_row.number
    return None


async def uploads_of(
    session: AsyncSession, round_ids: Collection[str], client_ids: Collection[str]
) -> Sequence[UploadRow]:
    """What these clients announced in these rounds."""
    return (await session.scalars(_UPLOADS_OF, {"rounds": list(round_ids), "clients": list(client_ids)})).all()


async def get_upload(session: AsyncSession, upload_id: str, client_id: str) -> UploadRow:
    """A client's own upload. Raises NotFoundError, also for another client's."""
    row = await session.get(UploadRow, upload_id)
    if row is None or row.client_id != client_id:
        raise NotFoundError(f"upload {upload_id}: does not exist; begin it first", upload_id=upload_id)
    return row


async def artifact_size(session: AsyncSession, key: str) -> int:
    """Length of a registered artifact in bytes; 0 if it is not registered."""
    return await session.scalar(select(ArtifactRow.size_bytes).where(ArtifactRow.key == key).limit(1)) or 0
