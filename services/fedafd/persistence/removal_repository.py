"""Deleting a federation: its rows go in one transaction, its objects after it, and the audit log stays.

An aggregator removes the objects, because only it may write where they lie; until then the name cannot be used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import JSON, ColumnElement, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.models import (
    ArtifactRow,
    Base,
    ClientRow,
    EventRow,
    FederationRow,
    ModelFileRow,
    ModelVersionRow,
    OutboxRow,
    ParticipationRow,
    PersonalizedModelRow,
    RemovalRow,
    RoundRow,
    StageRow,
    UploadRow,
)

__all__ = ["Extent", "delete_rows", "extent_of", "finish_removal", "is_being_removed", "removals"]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of a federation there is."""

    clients: int
    rounds: int
    versions: int
    personalized_models: int
    size_bytes: int
    """Of the artifacts and files of models that the database names."""


async def extent_of(session: AsyncSession, federation_id: str) -> Extent:
    """What goes with a federation."""

    async def count(table: type[Base], condition: ColumnElement[bool]) -> int:
        return await session.scalar(select(func.count()).select_from(table).where(condition)) or 0

    clients = select(ClientRow.id).where(ClientRow.federation_id == federation_id)
    artifacts = select(func.sum(ArtifactRow.size_bytes)).where(ArtifactRow.federation_id == federation_id)
    files = select(func.sum(ModelFileRow.size_bytes)).where(_files_of(federation_id))
    return Extent(
        clients=await count(ClientRow, ClientRow.federation_id == federation_id),
        rounds=await count(RoundRow, RoundRow.federation_id == federation_id),
        versions=await count(ModelVersionRow, ModelVersionRow.federation_id == federation_id),
        personalized_models=await count(PersonalizedModelRow, PersonalizedModelRow.client_id.in_(clients)),
        size_bytes=int(await session.scalar(artifacts) or 0) + int(await session.scalar(files) or 0),
    )


async def delete_rows(session: AsyncSession, federation_id: str) -> None:
    """Delete all rows of a federation, and note that its objects are to be removed; its events stay, of no federation.

    The caller has made sure that none of its rounds is open, and holds its lock.
    """
    rounds = select(RoundRow.id).where(RoundRow.federation_id == federation_id)
    stages = select(StageRow.id).where(StageRow.round_id.in_(rounds))
    clients = select(ClientRow.id).where(ClientRow.federation_id == federation_id)
    for gone in (
        delete(OutboxRow).where(OutboxRow.stage_id.in_(stages)),
        delete(StageRow).where(StageRow.round_id.in_(rounds)),
        delete(UploadRow).where(UploadRow.round_id.in_(rounds)),
        delete(ArtifactRow).where(ArtifactRow.federation_id == federation_id),
        delete(ModelFileRow).where(_files_of(federation_id)),
        delete(PersonalizedModelRow).where(PersonalizedModelRow.client_id.in_(clients)),
        delete(ModelVersionRow).where(ModelVersionRow.federation_id == federation_id),
        delete(ParticipationRow).where(ParticipationRow.round_id.in_(rounds)),
        delete(ClientRow).where(ClientRow.federation_id == federation_id),
        delete(RoundRow).where(RoundRow.federation_id == federation_id),
    ):
        await session.execute(gone.execution_options(synchronize_session=False))
    named = update(EventRow).where(EventRow.federation_id == federation_id)
    await session.execute(
        named.values(federation_id=None, data=_with_name(session, federation_id)).execution_options(
            synchronize_session=False
        )
    )
    await session.execute(delete(FederationRow).where(FederationRow.id == federation_id))
    session.add(RemovalRow(federation_id=federation_id))
    await session.flush()


async def is_being_removed(session: AsyncSession, federation_id: str) -> bool:
    """Whether objects of a deleted federation of that name may still be there."""
    return await session.get(RemovalRow, federation_id) is not None


async def removals(session: AsyncSession) -> Sequence[str]:
    """Names of deleted federations whose objects are still to be removed, the oldest first."""
    return (await session.scalars(select(RemovalRow.federation_id).order_by(RemovalRow.created_at))).all()


async def finish_removal(session: AsyncSession, federation_id: str) -> None:
    """The objects are gone; the name may be used again."""
    await session.execute(delete(RemovalRow).where(RemovalRow.federation_id == federation_id))


def _files_of(federation_id: str) -> ColumnElement[bool]:
    versions = select(ModelVersionRow.id).where(ModelVersionRow.federation_id == federation_id)
    personalized = (
        select(PersonalizedModelRow.id)
        .join(ClientRow, PersonalizedModelRow.client_id == ClientRow.id)
        .where(ClientRow.federation_id == federation_id)
    )
    return ModelFileRow.model_version_id.in_(versions) | ModelFileRow.personalized_model_id.in_(personalized)


def _with_name(session: AsyncSession, federation_id: str) -> ColumnElement[object]:
    """An event's data with the name of the federation that it was of."""
    if session.get_bind().dialect.name == "sqlite":
        return func.json_set(EventRow.data, "$.federation", federation_id)
    return cast(cast(EventRow.data, JSONB).op("||")(func.jsonb_build_object("federation", federation_id)), JSON)
