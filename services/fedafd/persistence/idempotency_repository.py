"""Remembered answers of repeated requests."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.errors import ConcurrentChangeError
from fedafd.persistence.models import IdempotencyRow, utc_now

__all__ = ["claim_key", "forget_old_answers", "keep_answer"]


async def claim_key(
    session: AsyncSession, key: str, request_hash: str, lifetime: timedelta
) -> tuple[IdempotencyRow, bool]:
    """The key's row, and whether this transaction made it.

    While another transaction holds the key this waits for it to end. An answer older than `lifetime` is forgotten.
    """
    old = delete(IdempotencyRow).where(IdempotencyRow.key == key, IdempotencyRow.created_at < utc_now() - lifetime)
    await session.execute(old)
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    values = {"key": key, "request_hash": request_hash, "status": 0, "body": b"", "created_at": utc_now()}
    inserted = await session.execute(
        dialect.insert(IdempotencyRow).values(values).on_conflict_do_nothing().returning(IdempotencyRow.key)
    )
    is_new = inserted.first() is not None
    row = await session.get(IdempotencyRow, key, populate_existing=True)
    if row is None:  # forgotten between the two statements
        raise ConcurrentChangeError("the remembered answer has just expired; repeat the request")
    return row, is_new


async def keep_answer(
    session: AsyncSession, row: IdempotencyRow, status: int, location: str | None, body: bytes
) -> None:
    """Remember the answer."""
    row.status, row.location, row.body = status, location, body
    await session.flush()


async def forget_old_answers(session: AsyncSession, lifetime: timedelta) -> None:
    """Remove what is older than `lifetime`."""
    await session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < utc_now() - lifetime))
