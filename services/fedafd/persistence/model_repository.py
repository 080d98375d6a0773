"""Model versions, global and personalized, and the files of their folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from fedafd.domain.errors import NotFoundError, VersionRemovedError
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.models import ClientRow, ModelFileRow, ModelVersionRow, PersonalizedModelRow

__all__ = [
    "add_files",
    "delivered_files",
    "find_version",
    "get_personalized",
    "get_version",
    "has_personalized",
    "list_files",
    "list_personalized",
    "list_versions",
    "newest_versions",
    "pulled_files",
    "version_behind",
    "version_to_start_from",
]

_MOST_NAMED = 12
_Owner = ModelVersionRow | PersonalizedModelRow


async def find_version(session: AsyncSession, federation_id: str, version: int | None) -> ModelVersionRow | None:
    """A global version, or None."""
    if version is None:
        return None
    query = select(ModelVersionRow).where(
        ModelVersionRow.federation_id == federation_id, ModelVersionRow.version == version
    )
    return await session.scalar(query)


async def version_behind(
    session: AsyncSession, federation_id: str, version: int | None, state_key: str
) -> ModelVersionRow | None:
    """The nearest of the versions that `version` was trained from that has a state, another than that; None if none."""
    row = await find_version(session, federation_id, version)
    while row is not None and (row.state_key == state_key or row.state_removed_at is not None):
        row = await find_version(session, federation_id, row.parent_version)
    return row


async def get_version(session: AsyncSession, federation_id: str, version: int | None) -> ModelVersionRow:
    """A global version. Raises NotFoundError."""
    row = await find_version(session, federation_id, version)
    if row is None:
        what = (
            "no model version yet; the first completed round makes one"
            if version is None
            else f"no model version {version}"
        )
        raise NotFoundError(f"federation {federation_id}: has {what}", federation=federation_id)
    return row


async def version_to_start_from(session: AsyncSession, federation_id: str, version: int) -> ModelVersionRow:
    """A global version whose server state is there. Raises NotFoundError, and VersionRemovedError where it went."""
    row = await get_version(session, federation_id, version)
    if row.state_removed_at is None:
        return row
    kept_versions = await _kept(session, federation_id, ModelVersionRow.state_removed_at)
    raise VersionRemovedError(
        f"federation {federation_id}: no round can start from version {version}: its server state was let go on"
        f" {row.state_removed_at:%Y-%m-%d %H:%M} UTC (retention.keep_rounds). {_to_be_had(kept_versions)}",
        federation=federation_id,
        version=version,
        kept=list(kept_versions),
    )


async def pulled_files(session: AsyncSession, federation_id: str, owner: _Owner) -> Sequence[ModelFileRow]:
    """The files of a version's folder, by path. Raises VersionRemovedError where retention let it go."""
    if owner.files_removed_at is None:
        return await list_files(session, owner)
    if isinstance(owner, ModelVersionRow):
        files = await _kept(session, federation_id, ModelVersionRow.files_removed_at)
    else:
        query = select(PersonalizedModelRow.version).where(
            PersonalizedModelRow.client_id == owner.client_id, PersonalizedModelRow.files_removed_at.is_(None)
        )
        files = (await session.scalars(query.order_by(PersonalizedModelRow.version))).all()
    raise VersionRemovedError(
        f"federation {federation_id}: the folder of version {owner.version} was let go on"
        f" {owner.files_removed_at:%Y-%m-%d %H:%M} UTC (retention.keep_models). {_to_be_had(files)}",
        federation=federation_id,
        version=owner.version,
        kept=list(files),
    )


async def _kept(
    session: AsyncSession, federation_id: str, removed_at: InstrumentedAttribute[datetime | None]
) -> Sequence[int]:
    query = select(ModelVersionRow.version).where(ModelVersionRow.federation_id == federation_id, removed_at.is_(None))
    return (await session.scalars(query.order_by(ModelVersionRow.version))).all()


def _to_be_had(versions: Sequence[int]) -> str:
    if not versions:
        return "There is no other"
    more = len(versions) - _MOST_NAMED
    first = versions if more <= 0 else versions[:_MOST_NAMED]
    listed = ", ".join(map(str, first)) + (f" and {more} more up to {versions[-1]}" if more > 0 else "")
    return f"The oldest that can be had is version {versions[0]}; there are {listed}"


async def list_versions(session: AsyncSession, federation_id: str, after: int, limit: int) -> Sequence[ModelVersionRow]:
    """Global versions above `after`, ascending."""
    query = select(ModelVersionRow).where(
        ModelVersionRow.federation_id == federation_id, ModelVersionRow.version > after
    )
    return (await session.scalars(query.order_by(ModelVersionRow.version).limit(limit))).all()


async def newest_versions(
    session: AsyncSession, federation_id: str, before: int | None, limit: int
) -> Sequence[ModelVersionRow]:
    """Global versions below `before`, descending; for None the newest."""
    query = select(ModelVersionRow).where(ModelVersionRow.federation_id == federation_id)
    if before is not None:
        query = query.where(ModelVersionRow.version < before)
    return (await session.scalars(query.order_by(ModelVersionRow.version.desc()).limit(limit))).all()


async def list_personalized(
    session: AsyncSession, client_id: str, after: int, limit: int, since: datetime | None = None
) -> Sequence[PersonalizedModelRow]:
    """A client's versions above `after`, ascending; with `since` those that were shared from then on."""
    query = select(PersonalizedModelRow).where(
        PersonalizedModelRow.client_id == client_id, PersonalizedModelRow.version > after
    )
    if since is not None:
        query = query.where(PersonalizedModelRow.created_at >= since)
    return (await session.scalars(query.order_by(PersonalizedModelRow.version).limit(limit))).all()


async def get_personalized(session: AsyncSession, client: ClientRow, version: int | None) -> PersonalizedModelRow:
    """A client's version, the newest for None. Raises NotFoundError."""
    query = select(PersonalizedModelRow).where(PersonalizedModelRow.client_id == client.id)
    if version is not None:
        query = query.where(PersonalizedModelRow.version == version)
    row = await session.scalar(query.order_by(PersonalizedModelRow.version.desc()).limit(1))
    if row is None:
        raise NotFoundError(f"client {client.name}: has shared no personalized model {version or ''}".rstrip())
    return row


async def has_personalized(session: AsyncSession, client_id: str, version: int) -> bool:
    """Whether the client has shared that version."""
    query = select(PersonalizedModelRow.id).where(
        PersonalizedModelRow.client_id == client_id, PersonalizedModelRow.version == version
    )
    return await session.scalar(query) is not None


async def delivered_files(
    session: AsyncSession, client: CallingClient, versions: Collection[int]
) -> Sequence[tuple[int, ModelFileRow]]:
    """The files of those of its versions that the client has shared since it enrolled, each with its version."""
    if client.enrolled_at is None:
        return []
    query = select(PersonalizedModelRow.version, ModelFileRow).join(
        ModelFileRow, ModelFileRow.personalized_model_id == PersonalizedModelRow.id
    )
    mine = PersonalizedModelRow.client_id == client.id
    query = query.where(mine, PersonalizedModelRow.version.in_(sorted(versions)))
    rows = await session.execute(query.where(PersonalizedModelRow.created_at >= client.enrolled_at))
    return [(version, file) for version, file in rows]


async def list_files(session: AsyncSession, owner: _Owner) -> Sequence[ModelFileRow]:
    """The files of a version's folder, by path."""
    column = ModelFileRow.model_version_id if isinstance(owner, ModelVersionRow) else ModelFileRow.personalized_model_id
    query = select(ModelFileRow).where(column == owner.id).order_by(ModelFileRow.path)
    return (await session.scalars(query)).all()


async def add_files(session: AsyncSession, owner: _Owner, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Register a folder's files: path -> {sha256, size_bytes, key}."""
    name = "model_version_id" if isinstance(owner, ModelVersionRow) else "personalized_model_id"
    for path, entry in files.items():
        known = {key: entry[key] for key in ("sha256", "size_bytes", "key")}
        session.add(ModelFileRow(**{name: owner.id}, path=path, **known))
    await session.flush()
