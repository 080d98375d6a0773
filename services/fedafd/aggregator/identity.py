"""Who calls: the client of a credential and key, by its one live agent, or a process that knows the internal token."""

from __future__ import annotations

import hmac
from datetime import timedelta

from fedafd.aggregator.callers import Caller
from fedafd.aggregator.context import Context
from fedafd.aggregator.credentials import credential_hash
from fedafd.aggregator.holding import Hold
from fedafd.aggregator.proofs import need_key
from fedafd.aggregator.types import Call
from fedafd.domain.errors import IdentityInUseError, UnauthenticatedError
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import utc_now
from fedafd.persistence.session_repository import note_refused_agent
from fedafd.rpc.credentials import bearer_secret
from fedafd.rpc.sessions import Sessions, sessions_in
from fedafd.telemetry.logging import add_context, get_logger

__all__ = ["caller_of", "calling_client", "require_internal"]

_log = get_logger(__name__)


async def calling_client(context: Context, call: Call) -> CallingClient:
    """The client whose credential the call carries; see caller_of."""
    return (await caller_of(context, call)).client


async def caller_of(
    context: Context,
    call: Call,
    *,
    fresh: bool = False,
    idle: bool = False,
    wait_seconds: float = 0.0,
    proven: bool = True,
) -> Caller:
    """Whose credential the call carries, if the call comes from its one live agent; asked anew with `fresh`.

    With `idle` one whom no round waits for is taken from memory, too, as long as nothing that concerns it changed.
    The agent's session is held for the lease, and for as long as the call may wait. A credential that is bound to a key
    is taken with the key's proof only; without `proven` it is taken alone, and no session is: else whoever stole it
    would hold the client's place.
    Raises UnauthenticatedError, InvalidRequestError without a session, IdentityInUseError while another is alive.
    """
    metadata = call.invocation_metadata()
    credential = credential_hash(metadata)
    caller = None if fresh else context.callers.find(credential)
    if idle:
        caller = context.callers.idle(credential)
    if caller is None:
        caller = await context.looks.of(credential)
    client = caller.client
    add_context(federation=client.federation_id, client=client.name)
    if not proven:
        return caller
    need_key(client, bound_only=context.bound_only)
    sessions = sessions_in(metadata)
    if not _has_session(context, client, sessions.own, wait_seconds):
        await _hold(context, client, sessions, wait_seconds)
    return caller


def _has_session(context: Context, client: CallingClient, own: str, wait_seconds: float) -> bool:
    """Whether the session is the caller's for a good while yet, so that most calls write nothing."""
    if client.session != own or client.session_until is None:
        return False
    return client.session_until - utc_now() > context.session_lease / 2 + timedelta(seconds=wait_seconds)


async def _hold(context: Context, client: CallingClient, sessions: Sessions, wait_seconds: float) -> None:
    now = utc_now()
    until = now + context.session_lease + timedelta(seconds=wait_seconds)
    if context.renewals.take(client, sessions.own, now, until):
        return
    hold = Hold(client_id=client.id, own=sessions.own, ended=tuple(sessions.ended), now=now, until=until)
    if await context.holds.take(hold):
        client.session, client.session_until = sessions.own, until
        return
    async with context.database.transaction() as session:
        # Agents that are started again and again make one event, not one each.
        news = await note_refused_agent(session, client.id, now)
        if news:
            record_event(
                session,
                "client.second_agent_refused",
                federation_id=client.federation_id,
                actor=f"client:{client.name}",
                client=client.name,
            )
    if news:
        _log.warning("client.second_agent_refused")
        context.wakeups.changed(client.federation_id, clients=(client.id,), rounds=False)
    raise IdentityInUseError(
        f"client {client.name}: another agent with this credential is at work, so this one is refused; one of the two"
        " state folders is a copy. Stop one of them and give it an invitation and a state folder of its own. If the"
        f" other one is gone for good, start this one again {_after(context, client)}"
    )


def _after(context: Context, client: CallingClient) -> str:
    left = (client.session_until - utc_now() if client.session_until else context.session_lease).total_seconds()
    return f"in {max(1, round(left))} s"


def require_internal(context: Context, call: Call) -> None:
    """Raise UnauthenticatedError unless the call carries the internal token."""
    secret = bearer_secret(call.invocation_metadata())
    if not hmac.compare_digest(secret.encode(), context.internal_token.encode()):
        raise UnauthenticatedError("the internal token is wrong; give every process the same FEDAFD_*_INTERNAL_TOKEN")
