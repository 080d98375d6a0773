"""Federations, and the public sets they agree on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.errors import ConflictError, NotFoundError
from fedafd.persistence.models import FederationRow, RoundRow
from fedafd.persistence.removal_repository import is_being_removed

__all__ = ["add_federation", "federation_ids", "get_federation", "list_federations", "no_such_federation"]


async def add_federation(session: AsyncSession, federation_id: str, config: dict[str, Any]) -> FederationRow:
    """Add a federation. Raises ConflictError for a taken name."""
    if await session.get(FederationRow, federation_id) is not None:
        raise ConflictError(
            f"federation {federation_id}: exists already; choose another name", federation=federation_id
        )
    if await is_being_removed(session, federation_id):
        raise ConflictError(
            f"federation {federation_id}: was deleted, and an aggregator has still to remove its objects; wait until it"
            " has, or choose another name",
            federation=federation_id,
        )
    row = FederationRow(id=federation_id, config=config)
    session.add(row)
    await session.flush()
    return row


async def get_federation(session: AsyncSession, federation_id: str, *, lock: bool = False) -> FederationRow:
    """A federation by name; with `lock` nobody else changes it until the transaction ends. Raises NotFoundError."""
    row = await session.get(FederationRow, federation_id, with_for_update=True if lock else None)
    if row is None:
        raise no_such_federation(federation_id)
    return row


async def used_public_set(session: AsyncSession, federation_id: str, sha256: str) -> bool:
    """Whether a round of the federation was on that public set."""
    query = select(RoundRow.id).where(RoundRow.federation_id == federation_id, RoundRow.public_set_sha256 == sha256)
    return await session.scalar(query.limit(1)) is not None


def no_such_federation(federation_id: str) -> NotFoundError:
    """What is told of one that is not there, and of one that the caller may not know of."""
    return NotFoundError(f"federation {federation_id}: does not exist", federation=federation_id)


async def federation_ids(session: AsyncSession) -> Sequence[str]:
    """Names of all federations, ascending."""
    return (await session.scalars(select(FederationRow.id).order_by(FederationRow.id))).all()


async def list_federations(
    session: AsyncSession, after: str, limit: int, only: Collection[str] | None = None
) -> Sequence[FederationRow]:
    """Federations whose name sorts after `after`, by name; of those in `only`, None for all."""
    query = select(FederationRow).where(FederationRow.id > after).order_by(FederationRow.id).limit(limit)
    if only is not None:
        query = query.where(FederationRow.id.in_(only))
    return (await session.scalars(query)).all()
