"""Who calls: what a call needs to know of its client, and of the part in a round that waits for it.

Each client is looked up several times in a round. As objects that a session keeps track of, with all their columns, the
rows cost three times as much to read, and each look at an attribute a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, and_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.errors import UnauthenticatedError
from fedafd.domain.states import RoundState
from fedafd.persistence.models import ClientRow, ParticipationRow, RoundRow
from fedafd.persistence.participation_repository import OPEN_PARTICIPATIONS

__all__ = ["CallingClient", "WaitingPart", "caller_by_credential", "callers_by_credential"]

_CLIENTS = cast("Table", ClientRow.__table__)
_PARTS = cast("Table", ParticipationRow.__table__)
_ROUNDS = cast("Table", RoundRow.__table__)


@dataclass(slots=True, kw_only=True)
class CallingClient:
    """An enrolled client, as of a moment ago; the columns of ClientRow with these names."""

    id: str
    federation_id: str
    name: str
    kind: str
    max_clients: int | None
    credential_hash: str | None
    key_sha256: str | None
    certificate_until: datetime | None
    enrolled_at: datetime | None
    revoked_at: datetime | None
    session: str | None
    session_until: datetime | None
    other_agent_refused_at: datetime | None

    @classmethod
    def of(cls, row: ClientRow) -> CallingClient:
        """What it is of a row."""
        return cls(**{name: getattr(row, name) for name in _CLIENT_FIELDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingPart:
    """A part in a round that is collecting, which is not settled."""

    id: str
    round_id: str
    position: int

    @classmethod
    def of(cls, row: ParticipationRow) -> WaitingPart:
        """What it is of a row."""
        return cls(**{name: getattr(row, name) for name in _PART_FIELDS})


_CLIENT_FIELDS = [one.name for one in fields(CallingClient)]
_PART_FIELDS = [one.name for one in fields(WaitingPart)]
_CALLERS = (
    select(*(_CLIENTS.c[name] for name in _CLIENT_FIELDS), *(_PARTS.c[name] for name in _PART_FIELDS))
    .outerjoin_from(
        _CLIENTS,
        _PARTS,
        and_(
            _PARTS.c.client_id == _CLIENTS.c.id,
            _PARTS.c.state.in_(OPEN_PARTICIPATIONS),
            _PARTS.c.round_id.in_(select(_ROUNDS.c.id).where(_ROUNDS.c.state == RoundState.COLLECTING.value)),
        ),
    )
    .where(_CLIENTS.c.credential_hash.in_(bindparam("hashes", expanding=True)))
)
"""Built once, as all that runs for each client or each look is: building costs as much as running."""


async def caller_by_credential(session: AsyncSession, credential_hash: str) -> tuple[CallingClient, WaitingPart | None]:
    """The client that a credential belongs to, and its unsettled participation in a round that is collecting.

    Raises UnauthenticatedError for a credential that is not known or revoked.
    """
    caller = (await callers_by_credential(session, [credential_hash]))[credential_hash]
    if isinstance(caller, UnauthenticatedError):
        raise caller
    return caller


async def callers_by_credential(
    session: AsyncSession, credential_hashes: Sequence[str]
) -> dict[str, tuple[CallingClient, WaitingPart | None] | UnauthenticatedError]:
    """As `caller_by_credential`, of many, with the error of each that it would be raised for."""
    rows = await (await session.connection()).execute(_CALLERS, {"hashes": list(credential_hashes)})
    callers = {client.credential_hash: (client, part) for client, part in map(_caller, reversed(rows.all()))}
    return {credential: _usable(callers.get(credential)) for credential in credential_hashes}


def _caller(row: Sequence[Any]) -> tuple[CallingClient, WaitingPart | None]:
    client = CallingClient(**dict(zip(_CLIENT_FIELDS, row, strict=False)))
    part = dict(zip(_PART_FIELDS, row[len(_CLIENT_FIELDS) :], strict=True))
    return client, None if part["id"] is None else WaitingPart(**part)


def _usable(
    caller: tuple[CallingClient, WaitingPart | None] | None,
) -> tuple[CallingClient, WaitingPart | None] | UnauthenticatedError:
    if caller is None:
        return UnauthenticatedError("the credential is not known; enrol with a new invitation")
    client = caller[0]
    if client.revoked_at is not None:
        return UnauthenticatedError(f"client {client.name}: was revoked on {client.revoked_at:%Y-%m-%d %H:%M} UTC")
    return caller
