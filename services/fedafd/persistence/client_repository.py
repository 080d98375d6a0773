"""Clients: invited, enrolled, revoked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.errors import AlreadyEnrolledError, ConflictError, NotFoundError, UnauthenticatedError
from fedafd.domain.kinds import ParticipantKind
from fedafd.domain.plain_text import plain_text
from fedafd.domain.secrets import SecretKind, derived_secret, hash_secret, new_secret, token_and_pin
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.database import affected_rows
from fedafd.persistence.models import ClientRow, utc_now

__all__ = [
    "bind_key",
    "enrol_client",
    "enrolled_clients",
    "get_client",
    "has_regions",
    "invite_again",
    "invite_client",
    "is_excluded",
    "list_clients",
    "revoke_client",
]


async def invite_client(
    session: AsyncSession,
    federation_id: str,
    name: str,
    kind: ParticipantKind,
    lifetime: timedelta,
    *,
    max_clients: int | None = None,
) -> tuple[ClientRow, str]:
    """Add a client and its one-time enrolment token, which is shown here only. Raises ConflictError for a taken name.

    Inviting a client again that has not enrolled replaces its token. `max_clients`: of a region.
    """
    row = await session.scalar(
        select(ClientRow).where(ClientRow.federation_id == federation_id, ClientRow.name == name).with_for_update()
    )
    if row is not None and (row.enrolled_at is not None or row.revoked_at is not None or row.kind != kind.value):
        raise ConflictError(
            f"client {name}: exists already in federation {federation_id}; choose another name, or invite it again",
            name=name,
        )
    if row is None:
        row = ClientRow(federation_id=federation_id, name=name, kind=kind.value)
        session.add(row)
    row.max_clients = max_clients
    return row, await invite_again(session, row, lifetime)


async def invite_again(session: AsyncSession, row: ClientRow, lifetime: timedelta) -> str:
    """A new one-time token, which is shown here only, for a client in any state; what it had before is void.

    Also what an agent that enrols at the same moment was about to get: the row is locked, and read anew.
    """
    await session.flush()
    await session.refresh(row, with_for_update=True)
    token = new_secret(SecretKind.ENROLMENT)
    row.token_hash, row.token_expires_at, row.revoked_at = hash_secret(token), utc_now() + lifetime, None
    row.credential_hash, row.enrolled_at = None, None
    row.key_sha256, row.certificate_until = None, None
    row.session, row.session_until, row.other_agent_refused_at = None, None, None
    await session.flush()
    return token


async def enrol_client(
    session: AsyncSession,
    token: str,
    kind: ParticipantKind,
    agent_version: str | None,
    nonce: bytes = b"",
    key_sha256: str | None = None,
) -> tuple[ClientRow, str, bool]:
    """Trade a one-time token for a credential, which is shown here only; True if this call did it.

    Whoever repeats the call with its `nonce`, because the answer was lost, gets the same credential; an empty one
    stands for an agent that cannot repeat. `key_sha256`: the key that the credential is bound to; the same each time.
    Raises UnauthenticatedError for an unknown or expired token, AlreadyEnrolledError for a used one, and ConflictError
    when the client was invited with another kind.
    """
    token, _ = token_and_pin(token)
    # Locked, so that whoever invites the client again at this moment comes before, and the token is void, or after.
    row = await session.scalar(select(ClientRow).where(ClientRow.token_hash == hash_secret(token)).with_for_update())
    if row is None or row.revoked_at is not None:
        raise UnauthenticatedError(
            "the enrolment token is not known or was revoked; ask the operator for a new invitation"
        )
    credential = derived_secret(SecretKind.CREDENTIAL, token, nonce) if nonce else new_secret(SecretKind.CREDENTIAL)
    same_agent = row.credential_hash == hash_secret(credential) and key_sha256 in (None, row.key_sha256)
    if row.enrolled_at is not None and same_agent:
        return row, credential, False
    if row.enrolled_at is not None:
        raise AlreadyEnrolledError(
            f"client {row.name}: its enrolment token was used on {row.enrolled_at:%Y-%m-%d %H:%M} UTC"
        )
    if row.token_expires_at is not None and row.token_expires_at < utc_now():
        raise UnauthenticatedError(
            f"client {row.name}: its enrolment token has expired; ask the operator for a new invitation"
        )
    if row.kind != kind.value:
        raise ConflictError(f"client {row.name}: was invited as kind {row.kind}, but the agent is of kind {kind.value}")
    values = {
        "credential_hash": hash_secret(credential),
        "key_sha256": key_sha256,
        "enrolled_at": utc_now(),
        "last_seen_at": utc_now(),
        "agent_version": plain_text(agent_version)[:64] if agent_version else None,
    }
    first = update(ClientRow).where(ClientRow.id == row.id, ClientRow.enrolled_at.is_(None)).values(**values)
    if await affected_rows(session, first) != 1:
        raise AlreadyEnrolledError(f"client {row.name}: its enrolment token was used just now")
    await session.refresh(row)
    return row, credential, True


async def bind_key(session: AsyncSession, client: CallingClient | ClientRow, key_sha256: str, until: datetime) -> bool:
    """Bind the client's credential to this key, whose certificate ends then; False if it is bound to another one, or
    is not the client's any more."""
    free = or_(ClientRow.key_sha256.is_(None), ClientRow.key_sha256 == key_sha256)
    valid = ClientRow.credential_hash == client.credential_hash, ClientRow.revoked_at.is_(None)
    bound = update(ClientRow).where(ClientRow.id == client.id, free, *valid)
    return await affected_rows(session, bound.values(key_sha256=key_sha256, certificate_until=until)) == 1


async def get_client(session: AsyncSession, federation_id: str, name: str) -> ClientRow:
    """A client by name. Raises NotFoundError."""
    row = await session.scalar(
        select(ClientRow).where(ClientRow.federation_id == federation_id, ClientRow.name == name)
    )
    if row is None:
        raise NotFoundError(f"federation {federation_id}: has no client {name}", federation=federation_id, client=name)
    return row


async def list_clients(session: AsyncSession, federation_id: str, after: str, limit: int) -> Sequence[ClientRow]:
    """Clients whose name sorts after `after`, by name."""
    query = select(ClientRow).where(ClientRow.federation_id == federation_id, ClientRow.name > after)
    return (await session.scalars(query.order_by(ClientRow.name).limit(limit))).all()


async def enrolled_clients(session: AsyncSession, federation_id: str) -> Sequence[ClientRow]:
    """Clients that are enrolled and not revoked, by name."""
    query = select(ClientRow).where(
        ClientRow.federation_id == federation_id, ClientRow.enrolled_at.is_not(None), ClientRow.revoked_at.is_(None)
    )
    return (await session.scalars(query.order_by(ClientRow.name))).all()


def is_excluded(row: ClientRow, round_number: int) -> bool:
    """Whether an operator leaves the client out of that round."""
    return row.excluded_from_round is not None and row.excluded_from_round <= round_number


async def has_regions(session: AsyncSession, federation_id: str) -> bool:
    """Whether a region is invited or enrolled."""
    query = select(ClientRow.id).where(
        ClientRow.federation_id == federation_id,
        ClientRow.kind == ParticipantKind.REGION.value,
        ClientRow.revoked_at.is_(None),
    )
    return await session.scalar(query.limit(1)) is not None


async def revoke_client(session: AsyncSession, row: ClientRow) -> None:
    """Refuse the client's credential and token from now on."""
    row.revoked_at = utc_now()
    await session.flush()
