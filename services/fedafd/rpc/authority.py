"""The federation server's authority: signs its own certificates, and its clients' about keys that they made.

Everything is X.509 by `cryptography`. What an authority is and who trusts it: docs/adr/0022.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedafd.domain.errors import ConfigurationError, InvalidRequestError, UnauthenticatedError
from fedafd.domain.hashing import sha256_of

__all__ = [
    "AGGREGATOR_NAME",
    "Authority",
    "AuthorityCertificate",
    "ClientCertificate",
    "anchor_of_pin",
    "authority_of_key",
    "checked_request",
    "key_id",
    "new_authority",
    "new_key",
    "pem_of_key",
    "pin_of_authority",
    "read_authority",
]

AGGREGATOR_NAME = "fedafd-aggregator"
"""In every certificate that an aggregator has of its authority, by whatever host it is dialled."""
_AUTHORITY_YEARS = 20
_CLOCK_SLACK = timedelta(hours=1)
"""How long before its making a certificate is already valid, for clocks that are behind."""
_LONGEST_REQUEST = 4096
_KNOWN_CERTIFICATES = 4096
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class ClientCertificate:
    """What a certificate of ours says of a client."""

    client_id: str
    key_id: str
    public_key: ec.EllipticCurvePublicKey
    begins: datetime
    ends: datetime


@dataclass(frozen=True, eq=False)
class AuthorityCertificate:
    """What is needed of an authority to check what it signed."""

    certificate: x509.Certificate

    def read_client(self, der: bytes) -> ClientCertificate:
        """What a client's certificate says, whether or not it holds at the moment.

        Raises UnauthenticatedError for one that this authority did not sign for a client.
        """
        return _read_client(self, der)


@dataclass(frozen=True, eq=False)
class Authority(AuthorityCertificate):
    """An authority's certificate and key."""

    key: SigningKey

    def certificate_der(self) -> bytes:
        """Its certificate in DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def certificate_pem(self) -> str:
        """Its certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def wrapped_key(self, secret: str) -> str:
        """Its key in PEM, encrypted by `secret`."""
        wrapping = serialization.BestAvailableEncryption(secret.encode())
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, wrapping).decode()

    def sign_client(
        self, public_key: ec.EllipticCurvePublicKey, federation: str, client_id: str, lifetime: timedelta
    ) -> x509.Certificate:
        """A certificate that says: who holds this key is that client."""
        name = x509.UniformResourceIdentifier(f"urn:fedafd:client:{federation}:{client_id}")
        return self._sign(public_key, client_id, [name], ExtendedKeyUsageOID.CLIENT_AUTH, lifetime)

    def sign_server(
        self, public_key: ec.EllipticCurvePublicKey, names: Sequence[str], lifetime: timedelta
    ) -> x509.Certificate:
        """A certificate of an aggregator; `names` are hosts or addresses, the first one its subject."""
        return self._sign(public_key, names[0], _general(names), ExtendedKeyUsageOID.SERVER_AUTH, lifetime)

    def _sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        lifetime: timedelta,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        usages = dict.fromkeys(_KEY_USAGES, False) | {"digital_signature": True}
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SLACK)
            .not_valid_after(min(now + lifetime, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usages), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )


_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key of the kind that authorities and clients have: EC on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def new_authority() -> Authority:
    """An authority that signs itself."""
    return authority_of_key(new_key())


def authority_of_key(key: ec.EllipticCurvePrivateKey) -> Authority:
    """The authority of that key."""
    return Authority(_authority_certificate(key.public_key(), key), key)


def pin_of_authority(certificate_pem: str) -> str:
    """What an invitation says of an authority: its public key, 33 bytes in base64url; empty for an operator's own."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or certificate.subject != _authority_name(key):
        return ""
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    return base64.urlsafe_b64encode(point).decode()


def anchor_of_pin(pin: str) -> bytes:
    """PEM to trust that authority by, made here of its public key and the name that follows from it.

    A key of the moment signs it: nobody looks at the signature of what is trusted by itself.
    Raises ConfigurationError.
    """
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), base64.urlsafe_b64decode(pin))
    except ValueError:
        raise ConfigurationError(
            "the invitation's token is damaged: what stands behind its second dot names no authority; copy it whole"
        ) from None
    return _authority_certificate(key, new_key()).public_bytes(serialization.Encoding.PEM)


def pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key in PEM, unencrypted."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _authority_name(key: ec.EllipticCurvePublicKey) -> x509.Name:
    return _name(f"FedAFD authority {key_id(key)[:16]}")


def _authority_certificate(public_key: ec.EllipticCurvePublicKey, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name, now = _authority_name(public_key), datetime.now(UTC)
    usages = dict.fromkeys(_KEY_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * _AUTHORITY_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usages), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )


def read_authority(certificate_pem: bytes, key_pem: bytes, secret: str | None, what: str) -> Authority:
    """The authority in PEM; `secret` decrypts its key. Raises ConfigurationError naming `what`."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, secret.encode() if secret else None)
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{what}: not a certificate and its key in PEM: {error}") from None
    except x509.ExtensionNotFound:
        is_authority = False
    if not isinstance(key, SigningKey) or key.public_key() != certificate.public_key():
        raise ConfigurationError(f"{what}: the key is not the certificate's, or neither EC nor RSA")
    if not is_authority:
        raise ConfigurationError(f"{what}: the certificate is not an authority's (basicConstraints CA:TRUE)")
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise ConfigurationError(f"{what}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}; renew it")
    return Authority(certificate, key)


def checked_request(der: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a certificate request is about. Raises InvalidRequestError; its names do not count."""
    try:
        if len(der) > _LONGEST_REQUEST:
            raise ValueError(f"{len(der)} bytes are too many")
        request = x509.load_der_x509_csr(der)
        key, signed = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidRequestError(f"certificate_request: not a PKCS#10 request in DER: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidRequestError("certificate_request: the key must be EC on P-256")
    if not signed:
        raise InvalidRequestError("certificate_request: is not signed by its key")
    return key


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Names a key: SHA-256 of its SubjectPublicKeyInfo, in lower-case hexadecimal."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256_of(der)


@lru_cache(maxsize=_KNOWN_CERTIFICATES)
def _read_client(authority: AuthorityCertificate, der: bytes) -> ClientCertificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(authority.certificate)
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        (subject,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key = certificate.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        raise UnauthenticatedError("the certificate is not one that this federation's authority signed") from None
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages or not isinstance(key, ec.EllipticCurvePublicKey):
        raise UnauthenticatedError("the certificate is not a client's")
    return ClientCertificate(
        client_id=str(subject.value),
        key_id=key_id(key),
        public_key=key,
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(names: Sequence[str]) -> list[x509.GeneralName]:
    general_names: list[x509.GeneralName] = []
    for name in names:
        try:
            general_names.append(x509.IPAddress(ipaddress.ip_address(name.strip("[]"))))
        except ValueError:
            general_names.append(x509.DNSName(name))
    return general_names
