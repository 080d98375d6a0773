"""Every object that the database names: what a backup must hold and a restore is checked against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.models import ArtifactRow, FederationRow, ModelFileRow, ModelVersionRow, RoundRow

__all__ = ["NamedObject", "named_objects", "public_set_hashes"]


@dataclass(frozen=True, order=True)
class NamedObject:
    """An object's key and the SHA-256 of its content."""

    key: str
    sha256: str


async def named_objects(session: AsyncSession) -> list[NamedObject]:
    """Artifacts, files of models and server states that retention has not let go, each once, by key."""
    objects: set[NamedObject] = set()
    for query in (
        select(ArtifactRow.key, ArtifactRow.sha256),
        select(ModelFileRow.key, ModelFileRow.sha256),
        select(ModelVersionRow.state_key, ModelVersionRow.state_sha256).where(
            ModelVersionRow.state_removed_at.is_(None)
        ),
    ):
        objects |= {NamedObject(*row) for row in await session.execute(query)}
    return sorted(objects)


async def public_set_hashes(session: AsyncSession) -> list[str]:
    """Public sets of federations and of their rounds."""
    federations = select(FederationRow.public_set_sha256).where(FederationRow.public_set_sha256.is_not(None))
    rows: Iterator[str | None] = iter(await session.scalars(federations))
    rounds: Iterator[str | None] = iter(await session.scalars(select(RoundRow.public_set_sha256).distinct()))
    return sorted({sha256 for sha256 in (*rows, *rounds) if sha256})
