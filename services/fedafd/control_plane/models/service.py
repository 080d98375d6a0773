"""Finding versions, promoting them, and who may see a personalized one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.callers import Caller
from fedafd.control_plane.context import Context
from fedafd.control_plane.models.schemas import DownloadTicket, DownloadTickets, ModelFile, ModelVersion
from fedafd.domain.errors import ConflictError, ForbiddenError, NotFoundError, TicketsUnavailableError
from fedafd.domain.kinds import Role
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import get_personalized, get_version, version_to_start_from
from fedafd.persistence.models import ClientRow, ModelFileRow, ModelVersionRow, PersonalizedModelRow, utc_now
from fedafd.storage import PresigningStore

__all__ = ["find_global", "find_personalized", "owned_client", "promote", "readable_since", "roll_back", "tickets"]


async def find_global(session: AsyncSession, federation: str, version: str) -> tuple[ModelVersionRow, int | None]:
    """A global version, and the current one's number. Raises NotFoundError."""
    owner = await get_federation(session, federation)
    number = owner.current_version if version == "current" else int(version)
    return await get_version(session, federation, number), owner.current_version


async def owned_client(session: AsyncSession, federation: str, client: str, caller: Caller) -> ClientRow:
    """A client whose personalized models the caller may see. Raises ForbiddenError unless it is its own or an admin."""
    if caller.client is None and caller.role is not Role.ADMIN:
        raise ForbiddenError(f"personalized models of {client} are for that client's credential or an admin's key")
    if caller.client is not None and (caller.client.name, caller.client.federation_id) != (client, federation):
        raise ForbiddenError(
            f"personalized models of {client} are for that client's own credential, which yours is not"
        )
    await get_federation(session, federation)
    return await get_client(session, federation, client)


async def find_personalized(
    session: AsyncSession, federation: str, client: str, version: str, caller: Caller
) -> PersonalizedModelRow:
    """A client's version, the newest for `current`.

    Raises NotFoundError, and ForbiddenError to a client for one that was shared before it enrolled.
    """
    owner = await owned_client(session, federation, client, caller)
    row = await get_personalized(session, owner, None if version == "current" else int(version))
    since = readable_since(owner, caller)
    if since is not None and row.created_at < since:
        raise ForbiddenError(
            f"version {row.version} of {client} was shared before this credential was made"
            f" ({since:%Y-%m-%d %H:%M} UTC); an admin's key opens it"
        )
    return row


def readable_since(owner: ClientRow, caller: Caller) -> datetime | None:
    """From when on shared versions are the caller's to read: its enrolment; None, for admins, for all."""
    return None if caller.client is None else owner.enrolled_at or utc_now()


async def promote(session: AsyncSession, federation: str, version: int, actor: str) -> ModelVersion:
    """Make a version, newer or older, the current one. Raises NotFoundError, VersionRemovedError."""
    owner = await get_federation(session, federation, lock=True)
    row = await version_to_start_from(session, federation, version)
    row.promoted_at = utc_now()
    old, owner.current_version = owner.current_version, row.version
    if old != row.version:
        record_event(session, "model.promoted", federation_id=federation, actor=actor, old=old, new=row.version)
    return ModelVersion.of(row, row.version)


async def roll_back(session: AsyncSession, federation: str, actor: str) -> ModelVersion:
    """Go back to the version that the current one was trained from.

    Raises ConflictError where there is none, VersionRemovedError where its state was let go.
    """
    owner = await get_federation(session, federation, lock=True)
    row = await get_version(session, federation, owner.current_version)
    if row.parent_version is None:
        raise ConflictError(f"federation {federation}: version {row.version} is its first; there is none before it")
    parent = await version_to_start_from(session, federation, row.parent_version)
    owner.current_version = parent.version
    data = {"old": row.version, "new": parent.version}
    record_event(session, "model.rolled_back", federation_id=federation, actor=actor, **data)
    return ModelVersion.of(parent, parent.version)


async def tickets(context: Context, files: Sequence[ModelFileRow]) -> DownloadTickets:
    """URLs that read these files from the object store for a while. Raises TicketsUnavailableError for a folder."""
    store = context.store
    if not isinstance(store, PresigningStore):
        raise TicketsUnavailableError("this federation's object store gives no tickets; download the archive instead")
    if not files:
        raise NotFoundError("the version has no files")
    lifetime, expires_at = context.ticket_lifetime, utc_now() + context.ticket_lifetime

    def sign() -> list[DownloadTicket]:
        return [
            DownloadTicket(**ModelFile.of(row).model_dump(), url=store.presigned_get(row.key, lifetime))
            for row in files
        ]

    return DownloadTickets(expires_at=expires_at, items=await asyncio.to_thread(sign))
