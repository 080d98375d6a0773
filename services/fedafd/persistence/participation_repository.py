"""Participations: one client's part in one round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Boolean, Float, String, Table, bindparam, case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.kinds import Modality, ParticipantKind
from fedafd.domain.states import OPEN_PARTICIPATION_STATES, ParticipationState, RoundState
from fedafd.persistence.advances import advance_values
from fedafd.persistence.database import affected_rows
from fedafd.persistence.first_moments import first_moment
from fedafd.persistence.look_repository import ClientLook, PartLook
from fedafd.persistence.models import ClientRow, ParticipationRow, RoundRow, utc_now

__all__ = [
    "OPEN_PARTICIPATIONS",
    "clients_in",
    "clients_with",
    "count_invitations",
    "current_participation",
    "delivered_by",
    "find_participation",
    "history_of",
    "invite_cohort",
    "list_participations",
    "participation_at",
    "reopen_participation",
    "settle_participation",
    "write_progress",
]

OPEN_PARTICIPATIONS = sorted(state.value for state in OPEN_PARTICIPATION_STATES)


_PARTS = cast("Table", ParticipationRow.__table__)
_STEPS = or_(*(_PARTS.c.state == state for state in OPEN_PARTICIPATIONS)) & bindparam("stepped", type_=Boolean)
_PROGRESS = (
    update(_PARTS)
    .where(_PARTS.c.id == bindparam("participation_id"))
    .values(
        bytes_up=_PARTS.c.bytes_up + bindparam("up"),
        bytes_down=_PARTS.c.bytes_down + bindparam("down"),
        **advance_values(),
        trains_since=first_moment(_PARTS.c.trains_since, "trains_at"),
        sends_since=first_moment(_PARTS.c.sends_since, "sends_at"),
        state=case((_STEPS, ParticipationState.TRAINING.value), else_=_PARTS.c.state),
        progress=case((_STEPS, bindparam("fraction", type_=Float)), else_=_PARTS.c.progress),
        activity=case((_STEPS, bindparam("activity_now", type_=String(200))), else_=_PARTS.c.activity),
    )
)

_REGION = ParticipantKind.REGION.value
_MODALITIES = {kind.value: kind.modalities for kind in ParticipantKind}


def clients_in(part: ParticipationRow | PartLook, client: ClientRow | ClientLook) -> int:
    """How many clients a part in a round stands for: one, or a region's; before it delivers, the most that may be."""
    if client.kind != _REGION:
        return 1
    return part.region_clients["total"] if part.region_clients else client.max_clients or 0


def clients_with(part: ParticipationRow | PartLook, client: ClientRow | ClientLook, modality: Modality) -> int:
    """As `clients_in`, of those that hold a modality."""
    if client.kind != _REGION:
        return int(modality in _MODALITIES[client.kind])
    return part.region_clients.get(modality.value, 0) if part.region_clients else client.max_clients or 0


async def invite_cohort(session: AsyncSession, round_id: str, clients: Sequence[ClientRow]) -> None:
    """Invite clients, in cohort order."""
    session.add_all(
        ParticipationRow(round_id=round_id, client_id=client.id, position=position)
        for position, client in enumerate(clients)
    )
    await session.flush()


async def count_invitations(session: AsyncSession, client_ids: Sequence[str]) -> dict[str, int]:
    """Of these clients how many rounds each was invited to; who never was is not in it."""
    counted = select(ParticipationRow.client_id, func.count()).where(ParticipationRow.client_id.in_(client_ids))
    counts = await session.execute(counted.group_by(ParticipationRow.client_id))
    return {client_id: count for client_id, count in counts.all()}


async def list_participations(session: AsyncSession, round_id: str) -> Sequence[tuple[ParticipationRow, ClientRow]]:
    """A round's participations with their clients, in cohort order."""
    query = select(ParticipationRow, ClientRow).join(ClientRow, ParticipationRow.client_id == ClientRow.id)
    rows = await session.execute(query.where(ParticipationRow.round_id == round_id).order_by(ParticipationRow.position))
    return [(part, client) for part, client in rows.all()]


async def delivered_by(
    session: AsyncSession, client_ids: Sequence[str], most_rounds: int
) -> Sequence[tuple[ParticipationRow, int]]:
    """Deliveries of these clients in rounds that are over, with the rounds' numbers, ascending; the newest of each."""
    newest = func.row_number().over(partition_by=ParticipationRow.client_id, order_by=RoundRow.number.desc())
    recent = (
        select(ParticipationRow.id, RoundRow.number.label("number"), newest.label("age"))
        .join(RoundRow, ParticipationRow.round_id == RoundRow.id)
        .where(
            ParticipationRow.client_id.in_(client_ids),
            ParticipationRow.state == ParticipationState.DELIVERED.value,
            RoundRow.finished_at.is_not(None),
        )
        .subquery()
    )
    query = select(ParticipationRow, recent.c.number).join(recent, ParticipationRow.id == recent.c.id)
    rows = await session.execute(query.where(recent.c.age <= most_rounds).order_by(recent.c.number))
    return [(part, number) for part, number in rows.all()]


async def history_of(
    session: AsyncSession, client_id: str, before_round: int | None, limit: int
) -> Sequence[tuple[ParticipationRow, RoundRow]]:
    """A client's parts in rounds, the newest round first; with `before_round` those of rounds before it."""
    query = select(ParticipationRow, RoundRow).join(RoundRow, ParticipationRow.round_id == RoundRow.id)
    query = query.where(ParticipationRow.client_id == client_id)
    if before_round is not None:
        query = query.where(RoundRow.number < before_round)
    rows = await session.execute(query.order_by(RoundRow.number.desc()).limit(limit))
    return [(part, of) for part, of in rows.all()]


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
            ParticipationRow.state.in_(OPEN_PARTICIPATIONS),
            RoundRow.state == RoundState.COLLECTING.value,
        )
    )
    pair = (await session.execute(query)).first()
    return None if pair is None else (pair[0], pair[1])


async def write_progress(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what clients did since the last time, many at once.

    Each row has `participation_id`, what `advance_values` names, bytes `up` and `down`, and when the client began to
    train and to send (`trains_at`, `sends_at`, None for no news; the first that was written stays). A report moves an
    unsettled participation to `training`, to `fraction` and `activity_now`.
    """
    await (await session.connection()).execute(_PROGRESS, [dict(row) for row in rows])


async def participation_at(session: AsyncSession, round_id: str, position: int) -> tuple[ParticipationRow, ClientRow]:
    """The part of the client at a cohort position."""
    query = select(ParticipationRow, ClientRow).join(ClientRow, ParticipationRow.client_id == ClientRow.id)
    at = query.where(ParticipationRow.round_id == round_id, ParticipationRow.position == position)
    pair = (await session.execute(at.execution_options(populate_existing=True))).one()
    return pair[0], pair[1]


async def reopen_participation(
    session: AsyncSession, participation_id: str, new: ParticipationState, **values: Any
) -> bool:
    """Take a delivery back: it is asked for again (INVITED), or does not count (REJECTED); False if there is none."""
    delivered = update(ParticipationRow).where(
        ParticipationRow.id == participation_id, ParticipationRow.state == ParticipationState.DELIVERED.value
    )
    if new is ParticipationState.INVITED:
        values |= {
            "receipt": None,
            "settled_at": None,
            "region_clients": None,
            "progress": 0.0,
            "last_progress_at": utc_now(),
            "advanced_at": None,
            "work_done": 0,
            "work_of": None,
            "work_begun": 0,
            "farthest": 0.0,
            "trains_since": None,
            "sends_since": None,
        }
    taken = delivered.values(state=new.value, representations_sha256=None, **values)
    return await affected_rows(session, taken) == 1


async def settle_participation(
    session: AsyncSession, participation_id: str, new: ParticipationState, **values: Any
) -> bool:
    """End a participation as `new`; False, and nothing changed, if it is settled already."""
    values = {"settled_at": utc_now()} | values
    guarded = update(ParticipationRow).where(
        ParticipationRow.id == participation_id, ParticipationRow.state.in_(OPEN_PARTICIPATIONS)
    )
    return await affected_rows(session, guarded.values(state=new.value, **values)) == 1
