"""A client's key: made where the agent is, never sent; it signs certificate requests and the proof of each call."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedafd.domain.errors import ConfigurationError
from fedafd.rpc.authority import new_key, pem_of_key
from fedafd.rpc.proofs import proof_metadata

__all__ = ["ClientKey", "certificate_text", "half_life"]


class ClientKey:
    """The key and, once there is one, its certificate."""

    def __init__(self, pem: str = "", certificate: str = "") -> None:
        """`pem`: the key, unencrypted; none makes a new one. `certificate`: base64 of its DER.

        Raises ConfigurationError for what is no such key or certificate.
        """
        try:
            key = serialization.load_pem_private_key(pem.encode(), None) if pem else new_key()
            self._certificate = base64.b64decode(certificate, validate=True)
        except (ValueError, TypeError, binascii.Error, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"the client's key cannot be read: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigurationError("the client's key is not one of EC")
        self._key = key

    def pem(self) -> str:
        """The key as text to keep; secret."""
        return pem_of_key(self._key).decode()

    def request(self) -> bytes:
        """A certificate request in DER. The server knows the client's name; the request holds none."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedAFD client")])
        signed = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.DER)

    def metadata(self, secret: str, path: str) -> tuple[tuple[str, str], ...]:
        """What a call of the method at `path` carries beside the credential `secret`; nothing without a certificate."""
        return proof_metadata(self._key, self._certificate, secret, path) if self._certificate else ()


def certificate_text(der: bytes) -> str:
    """A certificate as text to keep."""
    return base64.b64encode(der).decode()


def half_life(certificate: str) -> datetime:
    """When half of the time that a certificate holds for is over; at once for none, or one that cannot be read."""
    try:
        parsed = x509.load_der_x509_certificate(base64.b64decode(certificate, validate=True))
    except (ValueError, binascii.Error):
        return datetime.fromtimestamp(0, UTC)
    return parsed.not_valid_before_utc + (parsed.not_valid_after_utc - parsed.not_valid_before_utc) / 2
