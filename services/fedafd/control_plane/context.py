"""What the endpoints share, and who calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, NamedTuple

from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from fedafd.domain.errors import ForbiddenError, UnauthenticatedError
from fedafd.persistence.api_key_repository import key_by_secret
from fedafd.persistence.client_repository import client_by_credential
from fedafd.persistence.database import Database
from fedafd.persistence.models import ClientRow
from fedafd.storage import ObjectStore

__all__ = ["Caller", "Context", "ContextDep", "Limit", "admin", "any_caller", "operator", "viewer"]

_RANK = {"viewer": 0, "operator": 1, "admin": 2}
_bearer = HTTPBearer(
    auto_error=False, description="An API key, or for its own personalized models a client's credential."
)


@dataclass(frozen=True)
class Context:
    """Database, store, and how to tell others of a change."""

    database: Database
    store: ObjectStore
    changed: Callable[[str], None]
    invitation_lifetime: timedelta


class Caller(NamedTuple):
    """Who calls: an API key's name and role, or a client."""

    name: str
    role: str | None
    client: ClientRow | None = None

    @property
    def actor(self) -> str:
        """The caller in the audit log."""
        return f"client:{self.name}" if self.client is not None else f"api-key:{self.name}"


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(_context)]
Limit = Annotated[int, Query(ge=1, le=200, description="At most so many items.")]


async def any_caller(
    context: ContextDep, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """The caller, whoever it is. Raises UnauthenticatedError."""
    if given is None:
        raise UnauthenticatedError("no API key; send the header `Authorization: Bearer <key>`")
    async with context.database.transaction() as session:
        row = await key_by_secret(session, given.credentials)
        if row is not None:
            return Caller(row.name, row.role)
        client = await client_by_credential(session, given.credentials)
        return Caller(client.name, None, client)


def _at_least(role: str) -> Callable[[Caller], Caller]:
    def check(caller: Annotated[Caller, Depends(any_caller)]) -> Caller:
        if caller.role is None or _RANK[caller.role] < _RANK[role]:
            raise ForbiddenError(
                f"this needs an API key of role {role} or higher; yours is {caller.role or 'a client'}"
            )
        return caller

    return check


viewer = Annotated[Caller, Depends(_at_least("viewer"))]
operator = Annotated[Caller, Depends(_at_least("operator"))]
admin = Annotated[Caller, Depends(_at_least("admin"))]
