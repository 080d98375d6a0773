"""Who calls: an API key or a person with a role, for all federations or some, or a client with its credential.

A key for some federations finds of the others what it would find were they not there. An operation that is of no
federation is refused to it, unless its endpoint takes a `ViewerOfSome`, and answers with the key's federations alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.client_proofs import Shown, need_client_key
from fedafd.control_plane.context import Context
from fedafd.control_plane.oidc.people import Person
from fedafd.domain.errors import ForbiddenError, UnauthenticatedError
from fedafd.domain.kinds import Role
from fedafd.domain.secrets import hash_secret
from fedafd.persistence.api_key_repository import key_by_secret
from fedafd.persistence.caller_repository import CallingClient, caller_by_credential
from fedafd.persistence.federation_repository import no_such_federation
from fedafd.persistence.models import ApiKeyRow

__all__ = [
    "Admin",
    "AnyCaller",
    "Caller",
    "Operator",
    "Viewer",
    "ViewerOfSome",
    "any_caller",
    "at_least",
    "caller_of_key",
    "caller_of_person",
    "check_role",
    "check_scope",
    "identify",
]

_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="api_key",
    description="An API key, or a token of the identity provider; for its own personalized models also a client's"
    " credential.",
)


class Caller(NamedTuple):
    """An API key's or a person's name, role and federations, or a client."""

    id: str
    name: str
    role: Role | None
    secret: str
    client: CallingClient | None = None
    federations: frozenset[str] | None = None
    """Those that the key opens; None for all."""
    person: str | None = None
    """Of a person: what tells namesakes apart."""
    ends_at: float | None = None
    """Of a person's token, in seconds since the epoch."""

    def opens(self, federation: str | None) -> bool:
        """Whether the key is for this federation; None asks for all of them."""
        return self.federations is None or federation in self.federations

    @property
    def actor(self) -> str:
        """The caller in the audit log."""
        if self.person is not None:
            return f"person:{self.name}#{self.person}"
        return f"client:{self.name}" if self.client is not None else f"api-key:{self.name}"


async def identify(context: Context, session: AsyncSession, secret: str, shown: Shown) -> Caller:
    """The caller whose secret this is, of keys and clients. Raises UnauthenticatedError, ProofStaleError."""
    row = await key_by_secret(session, secret)
    if row is not None:
        context.key_uses.note(row, hash_secret(secret))
        return caller_of_key(row, secret)
    try:
        client, _ = await caller_by_credential(session, hash_secret(secret))
    except UnauthenticatedError:
        raise UnauthenticatedError(
            "the API key is not known, has expired or was revoked; ask an admin for one"
        ) from None
    await need_client_key(session, client, secret, shown, context.used_proofs)
    return Caller(client.id, client.name, None, secret, client)


def caller_of_key(row: ApiKeyRow, secret: str) -> Caller:
    """Whoever holds the key."""
    only = None if row.federations is None else frozenset(row.federations)
    return Caller(row.id, row.name, Role(row.role), secret, federations=only)


def caller_of_person(person: Person, secret: str = "") -> Caller:
    """Somebody whom the identity provider knows."""
    mark, ends_at = person.id[:8], person.expires_at or None
    only = person.federations
    return Caller(person.id, person.name, person.role, secret, federations=only, person=mark, ends_at=ends_at)


async def _let_in(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """The caller, whoever it is, as the door let it in. Raises UnauthenticatedError."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:
        raise UnauthenticatedError("no API key; send the header `Authorization: Bearer <key>`")
    return caller


async def any_caller(request: Request, caller: Annotated[Caller, Depends(_let_in)]) -> Caller:
    """The caller, whoever it is, who may know of what the path names. Raises NotFoundError, ForbiddenError."""
    check_scope(caller, request.path_params.get("federation"))
    return caller


def check_scope(caller: Caller, federation: str | None) -> None:
    """Raise NotFoundError for a federation that the caller's key does not open, as if it were not there.

    None is what concerns no single one. Raises ForbiddenError for it unless the key is for all.
    """
    if caller.opens(federation):
        return
    if federation is not None:
        raise no_such_federation(federation)
    names = ", ".join(sorted(caller.federations or ())) or "none"
    raise ForbiddenError(f"this needs an API key for all federations; yours is for {names}")


def check_role(caller: Caller, role: Role) -> None:
    """Raise ForbiddenError unless the caller has this role or a higher one."""
    if caller.role is None or _RANK[caller.role] < _RANK[role]:
        yours = f"yours is {caller.role.value}" if caller.role else "a client's credential has no role"
        raise ForbiddenError(f"this needs an API key of role {role.value} or higher; {yours}")


def at_least(role: Role, among: Callable[..., Awaitable[Caller]] = any_caller) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency that lets callers of this role or a higher one through. Raises ForbiddenError."""

    async def check(caller: Caller = Depends(among)) -> Caller:
        check_role(caller, role)
        return caller

    return check


AnyCaller = Annotated[Caller, Depends(any_caller)]
Viewer = Annotated[Caller, Depends(at_least(Role.VIEWER))]
ViewerOfSome = Annotated[Caller, Depends(at_least(Role.VIEWER, _let_in))]
"""Whose key may be for some federations: the endpoint tells of those alone."""
Operator = Annotated[Caller, Depends(at_least(Role.OPERATOR))]
Admin = Annotated[Caller, Depends(at_least(Role.ADMIN))]
