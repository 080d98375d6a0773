"""Participations: one client's part in one round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.states import PARTICIPATION_TRANSITIONS, ParticipationState, RoundState
from fedafd.persistence.database import affected_rows
from fedafd.persistence.models import ClientRow, ParticipationRow, RoundRow, utc_now

__all__ = [
    "add_bytes",
    "current_participation",
    "find_participation",
    "invite_cohort",
    "list_participations",
    "note_progress",
    "settle_participation",
]

_OPEN = [state.value for state, targets in PARTICIPATION_TRANSITIONS.items() if targets]


async def invite_cohort(session: AsyncSession, round_id: str, clients: Sequence[ClientRow]) -> None:
    """Invite clients, in cohort order."""
    session.add_all(
        ParticipationRow(round_id=round_id, client_id=client.id, position=position)
        for position, client in enumerate(clients)
    )
    await session.flush()


async def list_participations(session: AsyncSession, round_id: str) -> Sequence[tuple[ParticipationRow, ClientRow]]:
    """A round's participations with their clients, in cohort order."""
    query = select(ParticipationRow, ClientRow).join(ClientRow, ParticipationRow.client_id == ClientRow.id)
    found = await session.execute(
        query.where(ParticipationRow.round_id == round_id).order_by(ParticipationRow.position)
    )
    return [(part, client) for part, client in found.all()]


async def find_participation(session: AsyncSession, round_id: str, client_id: str) -> ParticipationRow | None:
    """A client's part in a round, or None."""
    query = select(ParticipationRow).where(
        ParticipationRow.round_id == round_id, ParticipationRow.client_id == client_id
    )
    return await session.scalar(query.execution_options(populate_existing=True))


async def current_participation(session: AsyncSession, client_id: str) -> tuple[ParticipationRow, RoundRow] | None:
    """The unsettled participation of a client in a round that is collecting, or None."""
    query = (
        select(ParticipationRow, RoundRow)
        .join(RoundRow, ParticipationRow.round_id == RoundRow.id)
        .where(
            ParticipationRow.client_id == client_id,
            ParticipationRow.state.in_(_OPEN),
            RoundRow.state == RoundState.COLLECTING.value,
        )
    )
    found = (await session.execute(query)).first()
    return None if found is None else (found[0], found[1])


async def note_progress(session: AsyncSession, participation_id: str, fraction: float, activity: str) -> None:
    """Keep an unsettled participation alive and move it to `training`."""
    alive = update(ParticipationRow).where(ParticipationRow.id == participation_id, ParticipationRow.state.in_(_OPEN))
    await session.execute(
        alive.values(
            state=ParticipationState.TRAINING.value,
            progress=min(max(fraction, 0.0), 1.0),
            activity=activity[:200],
            last_progress_at=utc_now(),
        )
    )


async def add_bytes(session: AsyncSession, round_id: str, client_id: str, *, up: int = 0, down: int = 0) -> None:
    """Count bytes of artifacts, and keep the participation alive: a moving byte is progress."""
    counted = update(ParticipationRow).where(
        ParticipationRow.round_id == round_id, ParticipationRow.client_id == client_id
    )
    await session.execute(
        counted.values(
            bytes_up=ParticipationRow.bytes_up + up,
            bytes_down=ParticipationRow.bytes_down + down,
            last_progress_at=utc_now(),
        )
    )


async def settle_participation(
    session: AsyncSession, participation_id: str, new: ParticipationState, **values: Any
) -> bool:
    """End a participation as `new`; False, and nothing changed, if it is settled already."""
    guarded = update(ParticipationRow).where(ParticipationRow.id == participation_id, ParticipationRow.state.in_(_OPEN))
    return await affected_rows(session, guarded.values(state=new.value, settled_at=utc_now(), **values)) == 1
