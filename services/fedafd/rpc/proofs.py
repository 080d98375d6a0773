"""Proof that the caller holds the key of its certificate: a signed statement about one call, in the call's metadata.

The statement is a JSON web token (RFC 7519, ES256) in the manner of DPoP (RFC 9449): `htu` the method's path, `iat`
when it was made, `jti` a number used once, `ath` the hash of the credential beside it; the certificate stands in the
header `x5c`. It works the same whether a proxy ends TLS in front of the aggregator or not: docs/adr/0022.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from fedafd.domain.errors import ProofStaleError, UnauthenticatedError
from fedafd.rpc.authority import AuthorityCertificate, ClientCertificate
from fedafd.rpc.credentials import bearer_secret

__all__ = ["PROOF_KEY", "PROOF_SECONDS", "Proof", "UsedProofs", "find_proof", "proof_metadata"]

PROOF_KEY = "fedafd-proof"
_TYPE = "fedafd-proof+jwt"
_ALGORITHM = "ES256"
_CLAIMS = ["htu", "iat", "jti", "ath"]
_MOST_JTI = 64
_MOST_REMEMBERED = 1_000_000
PROOF_SECONDS = 300.0
"""How far a statement's time may lie before or after the server's: clocks differ."""


class Proof(NamedTuple):
    """A statement that was checked against one call, but for whether it was seen before."""

    certificate: ClientCertificate
    jti: str
    issued_at: float


class UsedProofs:
    """Statements that were used, for as long as each would be good: none is taken twice by this process."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, float] = OrderedDict()

    def use(self, proof: Proof) -> None:
        """Raise ProofStaleError for one that was used before."""
        now = time.time()
        while self._used and (next(iter(self._used.values())) < now or len(self._used) > _MOST_REMEMBERED):
            self._used.popitem(last=False)
        name = f"{proof.certificate.key_id}:{proof.jti}"
        if name in self._used:
            raise ProofStaleError("the call's proof was used before; each call makes its own")
        self._used[name] = now + 2 * PROOF_SECONDS


def proof_metadata(
    key: ec.EllipticCurvePrivateKey, certificate: bytes, secret: str, path: str, *, now: float | None = None
) -> tuple[tuple[str, str], ...]:
    """Metadata for one call of the method at `path` with the credential `secret`; `certificate` in DER."""
    claims = {
        "htu": path,
        "iat": round(time.time() if now is None else now, 3),
        "jti": secrets.token_urlsafe(16),
        "ath": _hash(secret),
    }
    header = {"typ": _TYPE, "x5c": [base64.b64encode(certificate).decode()]}
    return ((PROOF_KEY, jwt.encode(claims, key, algorithm=_ALGORITHM, headers=header)),)


def find_proof(
    metadata: Iterable[tuple[str, str | bytes]] | None,
    path: str,
    authority: AuthorityCertificate,
    *,
    now: float | None = None,
) -> Proof | None:
    """The statement in a call's metadata, None if there is none.

    Raises UnauthenticatedError for one that is not of this call, credential and authority, or whose certificate is
    not valid at the time; ProofStaleError for one that was made at another time.
    """
    values = tuple(metadata or ())
    token = next((value for key, value in values if key == PROOF_KEY and isinstance(value, str)), None)
    if token is None:
        return None
    now = time.time() if now is None else now
    certificate = authority.read_client(_certificate_in(token))
    try:
        claims = jwt.decode(
            token,
            certificate.public_key,
            algorithms=[_ALGORITHM],
            options={"require": _CLAIMS, "verify_iat": False, "verify_aud": False},
        )
        issued_at, jti = float(claims["iat"]), claims["jti"]
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise UnauthenticatedError(f"{PROOF_KEY}: is not signed by the certificate's key: {error}") from None
    if claims["htu"] != path or claims["ath"] != _hash(bearer_secret(values)):
        raise UnauthenticatedError(f"{PROOF_KEY}: is about another call or another credential")
    if not isinstance(jti, str) or not 0 < len(jti) <= _MOST_JTI:
        raise UnauthenticatedError(f"{PROOF_KEY}: jti must be a text of 1 to {_MOST_JTI} characters")
    if not abs(now - issued_at) <= PROOF_SECONDS:  # also what is no number
        raise ProofStaleError(
            f"the call's proof was made at a time {abs(now - issued_at):.0f} s"
            f" {'before' if issued_at < now else 'after'} the aggregator's clock, and {PROOF_SECONDS:.0f} s are"
            " allowed; set this site's clock by NTP"
        )
    _need_valid(certificate, now)
    return Proof(certificate, jti, issued_at)


def _certificate_in(token: str) -> bytes:
    try:
        header = jwt.get_unverified_header(token)
        (encoded,) = header["x5c"]
        if header.get("typ") != _TYPE:
            raise ValueError(f"its type is not {_TYPE}")
        return base64.b64decode(encoded, validate=True)
    except (jwt.PyJWTError, binascii.Error, KeyError, ValueError, TypeError) as error:
        raise UnauthenticatedError(f"{PROOF_KEY}: holds no certificate: {error}") from None


def _need_valid(certificate: ClientCertificate, now: float) -> None:
    if now > certificate.ends.timestamp():
        raise UnauthenticatedError(
            f"this client's certificate ended on {certificate.ends:%Y-%m-%d %H:%M} UTC; the agent renews it while it"
            " runs. Ask the operator for a new invitation"
        )
    if now < certificate.begins.timestamp():
        raise UnauthenticatedError(
            f"this client's certificate is not valid before {certificate.begins:%Y-%m-%d %H:%M} UTC; set the clocks of"
            " all aggregators by NTP"
        )


def _hash(secret: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode().rstrip("=")
