"""What a client shows over REST beside its credential: a statement about this request, signed by the client's key.

It is the same statement as a call of its agent carries (fedafd.rpc.proofs), about `GET /v1/...` in the place of a
method. A copied credential opens nothing here either.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.errors import UnauthenticatedError
from fedafd.persistence.authority_repository import find_authority
from fedafd.persistence.caller_repository import CallingClient
from fedafd.rpc.authority import AuthorityCertificate
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.proofs import PROOF_KEY, UsedProofs, find_proof

__all__ = ["Shown", "need_client_key"]

_HEADER = "Fedafd-Proof"


class Shown(NamedTuple):
    """Of a request: the header, if it is there, and what the statement in it has to be about."""

    proof: str | None
    request: str
    """Method and path, without what is asked behind a `?`."""

    @classmethod
    def nothing(cls) -> Shown:
        """Where no statement can be shown, as at the dashboard's login."""
        return cls(None, "")


async def need_client_key(
    session: AsyncSession, client: CallingClient, secret: str, shown: Shown, used: UsedProofs
) -> None:
    """Raise UnauthenticatedError or ProofStaleError unless the request is signed by the key of that client.

    A credential that is bound to no key, of an agent from before there were any, is good alone.
    """
    if client.key_sha256 is None:
        return
    row = await find_authority(session)
    if shown.proof is None or row is None:
        raise UnauthenticatedError(
            f"client {client.name}: its credential is bound to a key; send the headers that `fedafd agent headers"
            f" {shown.request or 'GET PATH'}` prints on its machine ({_HEADER} among them)"
        )
    metadata = (*bearer_metadata(secret), (PROOF_KEY, shown.proof))
    proof = find_proof(metadata, shown.request, _certificate_of(row.certificate))
    if proof is None or (proof.certificate.key_id, proof.certificate.client_id) != (client.key_sha256, client.id):
        raise UnauthenticatedError(f"client {client.name}: the request was signed by a key that is not this client's")
    used.use(proof)


@lru_cache(maxsize=4)
def _certificate_of(pem: str) -> AuthorityCertificate:
    return AuthorityCertificate(x509.load_pem_x509_certificate(pem.encode()))
