"""Inviting and revoking clients, and who is there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.clients.schemas import Client, ClientData, ExcludeClient, InviteClient, InvitedClient
from fedafd.control_plane.context import Context
from fedafd.domain.config.federation import stored_federation_config
from fedafd.domain.config.regions import check_regions
from fedafd.domain.errors import ConflictError, InvalidRequestError
from fedafd.domain.kinds import ParticipantKind
from fedafd.domain.plain_text import plain_text
from fedafd.messaging.presence import Presence, read_presence
from fedafd.persistence.authority_repository import find_authority
from fedafd.persistence.client_repository import get_client, invite_again, invite_client, revoke_client
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.forgetting_repository import ask_to_forget, round_in_the_way
from fedafd.persistence.models import ClientRow
from fedafd.persistence.round_repository import first_round_to_invite
from fedafd.rpc.authority import pin_of_authority

__all__ = ["data_of", "exclude", "forget", "invite", "presences", "readmit", "renew", "revoke"]


async def invite(
    session: AsyncSession,
    federation: str,
    wanted: InviteClient,
    lifetime: timedelta,
    actor: str,
    *,
    name_authority: bool = True,
) -> InvitedClient:
    """Invite a client; its token names the server's authority with `name_authority`.

    Raises ConflictError for a taken name, NotFoundError for an unknown federation, and ConfigurationError for a region
    where the federation's configuration needs rows of single clients.
    """
    owner = await get_federation(session, federation, lock=wanted.kind is ParticipantKind.REGION)
    if wanted.kind is ParticipantKind.REGION:
        check_regions(stored_federation_config(owner.config))
    row, token = await invite_client(
        session, federation, wanted.name, wanted.kind, lifetime, max_clients=wanted.max_clients
    )
    record_event(session, "client.invited", federation_id=federation, actor=actor, client=row.name)
    return InvitedClient.invited(row, await _pinned(session, token) if name_authority else token)


async def renew(
    session: AsyncSession,
    federation: str,
    client: str,
    lifetime: timedelta,
    actor: str,
    *,
    max_clients: int | None = None,
    name_authority: bool = True,
) -> InvitedClient:
    """Invite a known client again, whatever state it is in; its old token and credential are void at once.

    Raises NotFoundError, InvalidRequestError for a bound of what is no region, and ConfigurationError as `invite`.
    """
    owner = await get_federation(session, federation, lock=True)
    row = await get_client(session, federation, client)
    if row.kind == ParticipantKind.REGION.value:
        check_regions(stored_federation_config(owner.config))
        row.max_clients = max_clients or row.max_clients
    elif max_clients is not None:
        raise InvalidRequestError(f"client {client}: is no region, and stands for itself alone; leave max_clients out")
    token = await invite_again(session, row, lifetime)
    record_event(session, "client.invited_again", federation_id=federation, actor=actor, client=row.name)
    return InvitedClient.invited(row, await _pinned(session, token) if name_authority else token)


async def revoke(session: AsyncSession, federation: str, client: str, actor: str) -> Client:
    """Refuse the client's credential and token from now on. Raises ConflictError if that was done before."""
    await get_federation(session, federation)
    row = await get_client(session, federation, client)
    if row.revoked_at is not None:
        raise ConflictError(f"client {client}: was revoked before")
    await revoke_client(session, row)
    record_event(session, "client.revoked", federation_id=federation, actor=actor, client=row.name)
    return Client.of(row, None)


async def forget(session: AsyncSession, federation: str, client: str, actor: str) -> ClientData:
    """Have all that the client sent deleted, once no running round has it; safe to repeat. Raises NotFoundError."""
    await get_federation(session, federation, lock=True)  # who asks at the same time waits, and finds it noted
    row = await get_client(session, federation, client)
    ask_to_forget(session, row, actor)
    return ClientData.of(row, await round_in_the_way(session, row.id))


async def data_of(session: AsyncSession, federation: str, client: str) -> ClientData:
    """Where that stands. Raises NotFoundError."""
    await get_federation(session, federation)
    row = await get_client(session, federation, client)
    return ClientData.of(row, await round_in_the_way(session, row.id))


async def exclude(session: AsyncSession, federation: str, client: str, wanted: ExcludeClient, actor: str) -> Client:
    """Invite the client to no round from one on; it stays enrolled. Safe to repeat: the last reason and round count.

    Raises NotFoundError, ConflictError for a round that has invited its clients, InvalidRequestError for no reason.
    """
    await get_federation(session, federation, lock=True)
    row = await get_client(session, federation, client)
    reason, first = plain_text(wanted.reason).strip(), await first_round_to_invite(session, federation)
    if not reason:
        raise InvalidRequestError("reason: say in words why the client is left out")
    if wanted.from_round is not None and wanted.from_round < first:
        raise ConflictError(
            f"client {client}: round {wanted.from_round} has invited its clients; exclude it from round {first} on, or"
            " revoke it, which ends its part in an open round"
        )
    row.excluded_from_round, row.exclusion_reason = wanted.from_round or first, reason
    facts = {"client": row.name, "from_round": row.excluded_from_round, "reason": reason}
    record_event(session, "client.excluded", federation_id=federation, actor=actor, **facts)
    return Client.of(row, None)


async def readmit(session: AsyncSession, federation: str, client: str, actor: str) -> Client:
    """Invite the client again to the rounds to come. Raises NotFoundError, ConflictError if it is not excluded."""
    await get_federation(session, federation, lock=True)
    row = await get_client(session, federation, client)
    if row.excluded_from_round is None:
        raise ConflictError(f"client {client}: is not excluded")
    row.excluded_from_round = row.exclusion_reason = None
    record_event(session, "client.readmitted", federation_id=federation, actor=actor, client=row.name)
    return Client.of(row, None)


async def presences(context: Context, federation: str, rows: Sequence[ClientRow]) -> dict[str, Presence]:
    """Presence of these clients from Redis; empty without one."""
    if context.redis is None:
        return {}
    return await read_presence(context.redis, federation, [row.name for row in rows])


async def _pinned(session: AsyncSession, token: str) -> str:
    """The token with the server's authority behind it, so that an agent knows the aggregator by the token alone."""
    row = await find_authority(session)
    pin = "" if row is None else pin_of_authority(row.certificate)
    return f"{token}.{pin}" if pin else token
