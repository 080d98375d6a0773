"""Whose secret it is, for REST and the dashboard's login; failures and each caller's requests are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedafd.control_plane.callers import Caller, caller_of_person, identify
from fedafd.control_plane.oidc.people import is_token
from fedafd.domain.errors import TooManyRequestsError, UnauthenticatedError
from fedafd.persistence.api_key_repository import ended_key

if TYPE_CHECKING:
    from fedafd.control_plane.client_proofs import Shown
    from fedafd.control_plane.context import Context
    from fedafd.control_plane.oidc.people import People

__all__ = ["count_request", "log_in"]


async def log_in(context: Context, secret: str, address: str, shown: Shown) -> Caller:
    """The caller whose secret this is. Raises UnauthenticatedError, ProofStaleError, TooManyRequestsError."""
    failed = context.failed_logins
    await failed.check(address, secret)
    known = failed.known(secret)
    if known:
        # Before the database is asked: a flood costs it nothing.
        await count_request(context, known)
    if context.people is not None and is_token(secret):
        caller = await _person(context, context.people, secret, address)
    else:
        caller = await _key_or_client(context, secret, address, shown)
    failed.opened(secret, caller.id)
    if not known:
        await count_request(context, caller.id)
    return caller


async def _person(context: Context, people: People, token: str, address: str) -> Caller:
    """By a token, which is checked without the database."""
    try:
        return caller_of_person(await people.of_bearer(token), token)
    except UnauthenticatedError:
        await context.failed_logins.failed(address, token, None)
        raise


async def _key_or_client(context: Context, secret: str, address: str, shown: Shown) -> Caller:
    ended = None
    try:
        async with context.database.snapshot() as session:
            try:
                return await identify(context, session, secret, shown)
            except UnauthenticatedError:
                ended = await ended_key(session, secret)
                raise
    except UnauthenticatedError:
        await context.failed_logins.failed(address, secret, ended)
        raise


async def count_request(context: Context, caller: str) -> None:
    """One more request of the caller's. Raises TooManyRequestsError for one too many."""
    allowed = context.requests_per_minute
    seconds = await context.rates.take(f"requests:{caller}", allowed)
    if seconds:
        raise TooManyRequestsError(
            f"more than {allowed} requests of this key in a minute; wait {seconds} s, and ask less often",
            retry_after_seconds=seconds,
        )
