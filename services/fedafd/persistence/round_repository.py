"""Rounds: guarded transitions, and what the coordinator looks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.config import FederationConfig, stored_federation_config
from fedafd.domain.errors import NotFoundError
from fedafd.domain.states import OPEN_ROUND_STATES, ROUND_TRANSITIONS, RoundState, check_transition
from fedafd.persistence.database import affected_rows
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import RoundRow, utc_now

__all__ = [
    "add_rounds",
    "config_of_round",
    "first_open_round",
    "first_round_to_invite",
    "get_round",
    "get_round_by_number",
    "list_open_rounds",
    "list_rounds",
    "newest_rounds",
    "open_round_numbers",
    "queued_round_numbers",
    "transition_round",
]

_MOST_CONFIGS = 256
_configs: dict[str, FederationConfig] = {}
"""By round: to find a configuration by its values means to write them out, each time."""
_OPEN = [state.value for state in OPEN_ROUND_STATES]
_ONE = select(RoundRow).where(RoundRow.id == bindparam("of"))
_ALL_OPEN = select(RoundRow).where(RoundRow.state.in_(_OPEN)).order_by(RoundRow.federation_id, RoundRow.number)


async def add_rounds(
    session: AsyncSession, federation_id: str, config: dict[str, Any], public_set_sha256: str, count: int
) -> list[RoundRow]:
    """Queue `count` rounds, numbered on from the last. The caller holds the federation's row locked."""
    last = await session.scalar(select(func.max(RoundRow.number)).where(RoundRow.federation_id == federation_id)) or 0
    rows = [
        RoundRow(federation_id=federation_id, number=last + i, config=config, public_set_sha256=public_set_sha256)
        for i in range(1, count + 1)
    ]
    session.add_all(rows)
    await session.flush()
    return rows


def config_of_round(row: RoundRow) -> FederationConfig:
    """The configuration that the round was queued with. It never changes, so it is looked at once per round."""
    config = _configs.get(row.id)
    if config is None:
        while len(_configs) >= _MOST_CONFIGS:
            _configs.pop(next(iter(_configs)))
        config = _configs[row.id] = stored_federation_config(row.config)
    return config


async def get_round(session: AsyncSession, round_id: str) -> RoundRow:
    """A round by id. Raises NotFoundError."""
    row = await session.scalar(_ONE, {"of": round_id})
    if row is None:
        raise NotFoundError(f"round {round_id}: does not exist", round_id=round_id)
    return row


async def get_round_by_number(session: AsyncSession, federation_id: str, number: int) -> RoundRow:
    """A round by its number in the federation. Raises NotFoundError."""
    query = select(RoundRow).where(RoundRow.federation_id == federation_id, RoundRow.number == number)
    row = await session.scalar(query)
    if row is None:
        raise NotFoundError(
            f"federation {federation_id}: has no round {number}", federation=federation_id, round=number
        )
    return row


async def list_rounds(session: AsyncSession, federation_id: str, after: int, limit: int) -> Sequence[RoundRow]:
    """Rounds with a number above `after`, ascending."""
    query = select(RoundRow).where(RoundRow.federation_id == federation_id, RoundRow.number > after)
    return (await session.scalars(query.order_by(RoundRow.number).limit(limit))).all()


async def newest_rounds(
    session: AsyncSession, federation_id: str, before: int | None, limit: int
) -> Sequence[RoundRow]:
    """Rounds that have left the queue with a number below `before`, descending; for None the newest."""
    begun = RoundRow.state != RoundState.QUEUED.value
    query = select(RoundRow).where(RoundRow.federation_id == federation_id, begun)
    if before is not None:
        query = query.where(RoundRow.number < before)
    return (await session.scalars(query.order_by(RoundRow.number.desc()).limit(limit))).all()


async def queued_round_numbers(session: AsyncSession, federation_id: str) -> Sequence[int]:
    """Numbers of a federation's rounds that wait for their turn, ascending."""
    queued = RoundRow.state == RoundState.QUEUED.value
    query = select(RoundRow.number).where(RoundRow.federation_id == federation_id, queued)
    return (await session.scalars(query.order_by(RoundRow.number))).all()


async def list_open_rounds(session: AsyncSession) -> Sequence[RoundRow]:
    """All rounds that are not over, by federation and number."""
    return (await session.scalars(_ALL_OPEN)).all()


async def open_round_numbers(session: AsyncSession, federation_id: str) -> Sequence[int]:
    """Numbers of a federation's rounds that are not over, ascending."""
    query = select(RoundRow.number).where(RoundRow.federation_id == federation_id, RoundRow.state.in_(_OPEN))
    return (await session.scalars(query.order_by(RoundRow.number))).all()


async def first_open_round(session: AsyncSession, federation_id: str) -> RoundRow | None:
    """The round of a federation that is at work, or waits to be; None if all are over."""
    query = select(RoundRow).where(RoundRow.federation_id == federation_id, RoundRow.state.in_(_OPEN))
    return await session.scalar(query.order_by(RoundRow.number).limit(1))


async def transition_round(
    session: AsyncSession, row: RoundRow, new: RoundState, *, token: int, actor: str, **values: Any
) -> bool:
    """Move a round from the state that `row` shows to `new`, with its event; one UPDATE guarded by state and token.

    False, and nothing changed, when the round has moved on or a newer lease has touched it. Raises
    IllegalTransitionError for a step that the table does not have.
    """
    old = RoundState(row.state)
    check_transition(ROUND_TRANSITIONS, old, new)
    now = utc_now()
    guarded = update(RoundRow).where(
        RoundRow.id == row.id, RoundRow.state == old.value, RoundRow.fencing_token <= token
    )
    if not ROUND_TRANSITIONS[new]:
        values["finished_at"] = now
    moved = await affected_rows(
        session,
        guarded.values(state=new.value, fencing_token=token, state_changed_at=now, **values),
    )
    if moved != 1:
        return False
    data = {"round": row.number, "old": old.value, "new": new.value, "reason": values.get("reason")}
    record_event(session, "round.state_changed", federation_id=row.federation_id, actor=actor, **data)
    await session.refresh(row)
    return True


async def first_round_to_invite(session: AsyncSession, federation_id: str) -> int:
    """Number of the first round that has invited nobody yet, whether it is queued already or not."""
    query = select(func.max(RoundRow.number)).where(RoundRow.federation_id == federation_id)
    invited = RoundRow.started_at.is_not(None) & (RoundRow.state != RoundState.PREPARING.value)
    return (await session.scalar(query.where(invited)) or 0) + 1
