"""TLS without files: certificates of the deployment's own authority, and of the one that the internal token makes.

Whoever knows the internal token derives the same *internal authority* from it: an aggregator shows a certificate of it
to distillers, and they one to it. So both sides are certain of the other with the one secret that they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fedafd.rpc.authority import AGGREGATOR_NAME, Authority, authority_of_key, new_key, pem_of_key
from fedafd.rpc.tls import Pair, Trust

__all__ = ["INTERNAL_NAME", "internal_credentials", "internal_pair", "internal_trust", "own_credentials"]

INTERNAL_NAME = "fedafd-internal"
_LIFETIME = timedelta(days=30)
_INTERNAL_LIFETIME = timedelta(days=3650)
"""The internal token bounds it: another token is another authority."""
_SALT = b"fedafd internal authority"
_ORDER_OF_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def internal_trust(internal_token: str) -> Trust:
    """What a distiller trusts, and what it shows."""
    authority, key = _internal(internal_token), new_key()
    certificate = authority.sign_client(key.public_key(), "", "distiller", _INTERNAL_LIFETIME)
    return Trust(authority.certificate_pem().encode(), INTERNAL_NAME, (pem_of_key(key), _pem(certificate)))


def internal_pair(internal_token: str) -> Pair:
    """What an aggregator shows to distillers."""
    key = new_key()
    certificate = _internal(internal_token).sign_server(key.public_key(), [INTERNAL_NAME], _INTERNAL_LIFETIME)
    return pem_of_key(key), _pem(certificate)


def internal_credentials(internal_token: str) -> grpc.ServerCredentials:
    """Of a listener for distillers alone: each must show a certificate of the internal authority."""
    authorities = _internal(internal_token).certificate_pem().encode()
    return grpc.ssl_server_credentials([internal_pair(internal_token)], authorities, require_client_auth=True)


def own_credentials(authority: Authority, names: Sequence[str], *others: Pair) -> grpc.ServerCredentials:
    """A server's credentials by its own authority, made anew at half of their time; `others` by their names."""
    return _OwnCertificate(authority, names, others).credentials()


class _OwnCertificate:
    """The certificate in use."""

    def __init__(self, authority: Authority, names: Sequence[str], others: Sequence[Pair]) -> None:
        self._authority, self._names, self._others = authority, [AGGREGATOR_NAME, *names], others
        self._anew_at = datetime.min.replace(tzinfo=UTC)

    def credentials(self) -> grpc.ServerCredentials:
        # gRPC takes None for "as before", which its stubs leave out. It asks at each handshake.
        look = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._if_due)
        return grpc.dynamic_ssl_server_credentials(self._configuration(), look, False)

    def _if_due(self) -> grpc.ServerCertificateConfiguration | None:
        return self._configuration() if datetime.now(UTC) > self._anew_at else None

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        key = new_key()
        certificate = self._authority.sign_server(key.public_key(), self._names, _LIFETIME)
        self._anew_at = datetime.now(UTC) + _LIFETIME / 2
        return grpc.ssl_server_certificate_configuration([(pem_of_key(key), _pem(certificate)), *self._others], None)


@lru_cache(maxsize=4)
def _internal(internal_token: str) -> Authority:
    # Slow on purpose: who sees the public key must not try tokens fast.
    wide = hashlib.scrypt(internal_token.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=48)
    number = int.from_bytes(wide, "big") % (_ORDER_OF_P256 - 1) + 1
    return authority_of_key(ec.derive_private_key(number, ec.SECP256R1()))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
