"""The hash of the credential that a call carries: made when the call comes in, and known to all that handles it."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar

from fedafd.domain.secrets import hash_secret
from fedafd.rpc.credentials import bearer_secret, find_bearer_secret

__all__ = ["credential_hash", "note_credential"]

_of_this_call: ContextVar[str | None] = ContextVar("credential", default=None)
Metadata = Iterable[tuple[str, str | bytes]] | None


def note_credential(metadata: Metadata) -> str | None:
    """Its hash; None for a call without one. Each call runs in a task, and so in a context, of its own."""
    secret = find_bearer_secret(metadata)
    credential = None if secret is None else hash_secret(secret)
    _of_this_call.set(credential)
    return credential


def credential_hash(metadata: Metadata) -> str:
    """The hash that was noted. Raises UnauthenticatedError for a call without a credential."""
    return _of_this_call.get() or hash_secret(bearer_secret(metadata))
