"""Which key a call was proven to be by: checked once per call, before its handler, and remembered against a second use.

A statement that was used is remembered by this process for as long as it would be good. Another replica would take it
once more, for the same method of the same client, within those minutes: who reads what TLS protects could repeat a
call, not make one.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar

from fedafd.domain.errors import UnauthenticatedError
from fedafd.persistence.caller_repository import CallingClient
from fedafd.rpc.authority import Authority
from fedafd.rpc.proofs import Proof, UsedProofs, find_proof

__all__ = ["Proofs", "need_bound", "need_key"]

_of_this_call: ContextVar[Proof | None] = ContextVar("proof", default=None)


class Proofs:
    """Checks the proofs of calls against one authority."""

    def __init__(self, authority: Authority | None) -> None:
        self._authority = authority
        self._used = UsedProofs()

    def check(self, metadata: Iterable[tuple[str, str | bytes]] | None, path: str) -> None:
        """Note by which key this call is proven. Each call runs in a task, and so in a context, of its own.

        Raises UnauthenticatedError, ProofStaleError.
        """
        proof = None if self._authority is None else find_proof(metadata, path, self._authority)
        if proof is not None:
            self._used.use(proof)
        _of_this_call.set(proof)


def need_key(client: CallingClient, *, bound_only: bool) -> None:
    """Raise UnauthenticatedError unless this call was made with the key that the client's credential is bound to.

    With `bound_only` a credential that is bound to no key is refused as well.
    """
    proof = _of_this_call.get()
    if client.key_sha256 is None:
        need_bound(client, bound_only=bound_only)
        return
    if proof is None:
        raise UnauthenticatedError(
            f"client {client.name}: its credential is bound to a key, and the call was not signed by it; run the agent"
            " that enrolled, on its own state folder, not of an older version"
        )
    if proof.certificate.key_id != client.key_sha256 or proof.certificate.client_id != client.id:
        raise UnauthenticatedError(f"client {client.name}: the call was signed by a key that is not this client's")


def need_bound(client: CallingClient, *, bound_only: bool) -> None:
    """With `bound_only`, raise UnauthenticatedError for a credential that is bound to no key."""
    if bound_only and client.key_sha256 is None:
        raise UnauthenticatedError(
            f"client {client.name}: its credential is bound to no key, and this federation takes no such; update"
            " the agent and ask the operator for a new invitation"
        )
