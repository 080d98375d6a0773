"""Who calls: the client of a credential, or a process that knows the internal token."""

from __future__ import annotations

import hmac

from fedafd.aggregator.context import Context
from fedafd.aggregator.types import Call
from fedafd.domain.errors import UnauthenticatedError
from fedafd.persistence.client_repository import client_by_credential
from fedafd.persistence.models import ClientRow
from fedafd.rpc.credentials import bearer_secret
from fedafd.telemetry.logging import add_context

__all__ = ["calling_client", "require_internal"]


async def calling_client(context: Context, call: Call) -> ClientRow:
    """The client whose credential the call carries. Raises UnauthenticatedError."""
    secret = bearer_secret(call.invocation_metadata())
    async with context.database.snapshot() as session:
        client = await client_by_credential(session, secret)
    add_context(federation=client.federation_id, client=client.name)
    return client


def require_internal(context: Context, call: Call) -> None:
    """Raise UnauthenticatedError unless the call carries the internal token."""
    secret = bearer_secret(call.invocation_metadata())
    if not hmac.compare_digest(secret.encode(), context.internal_token.encode()):
        raise UnauthenticatedError("the internal token is wrong; give every process the same FEDAFD_*_INTERNAL_TOKEN")
