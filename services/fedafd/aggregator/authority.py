"""The authority of this deployment: the operator's own files, else the one that the first aggregator made.

Its key lies in the database, wrapped by the internal token, which the database does not know: whoever has a copy of the
database alone cannot sign.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from cryptography import x509

from fedafd.aggregator.settings import AggregatorSettings
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.secrets import SecretKind, derived_secret
from fedafd.persistence.authority_repository import find_authority, keep_authority
from fedafd.persistence.database import Database
from fedafd.persistence.models import AuthorityRow
from fedafd.rpc.authority import Authority, new_authority, read_authority
from fedafd.telemetry.logging import get_logger

__all__ = ["open_authority"]

_WHAT = "the authority in the database"
_log = get_logger(__name__)


async def open_authority(database: Database, settings: AggregatorSettings) -> Authority:
    """The authority, made now if there is none. All replicas get the same. Raises ConfigurationError."""
    if settings.authority_certificate is not None and settings.authority_key is not None:
        return await _own(database, settings.authority_certificate, settings.authority_key)
    secret = settings.internal_token.get_secret_value()
    async with database.transaction() as session:
        row = await find_authority(session)
    if row is None:
        fresh = await asyncio.to_thread(new_authority)
        async with database.transaction() as session:
            row = await keep_authority(session, fresh.certificate_pem(), fresh.wrapped_key(_wrapping(secret)))
        _log.info("aggregator.authority_created", subject=fresh.certificate.subject.rfc4514_string())
    if row.wrapped_key is None:
        raise ConfigurationError(
            f"{_WHAT} is the operator's own: set FEDAFD_AGGREGATOR_AUTHORITY_CERTIFICATE and _AUTHORITY_KEY as before"
        )
    return await _opened(database, row, row.wrapped_key, settings)


async def _opened(database: Database, row: AuthorityRow, wrapped: str, settings: AggregatorSettings) -> Authority:
    certificate, token = row.certificate.encode(), settings.internal_token.get_secret_value()
    try:
        return read_authority(certificate, wrapped.encode(), _wrapping(token), _WHAT)
    except ConfigurationError:
        if settings.previous_internal_token is None:
            raise ConfigurationError(
                f"{_WHAT} was wrapped by another internal token; set FEDAFD_AGGREGATOR_PREVIOUS_INTERNAL_TOKEN to it"
                " for one start; where it is lost: docs/certificates.md#the-internal-token-changes"
            ) from None
    previous = settings.previous_internal_token.get_secret_value()
    authority = read_authority(certificate, wrapped.encode(), _wrapping(previous), _WHAT)
    async with database.transaction() as session:
        stored = await find_authority(session)
        assert stored is not None
        stored.wrapped_key = authority.wrapped_key(_wrapping(token))
    _log.info("aggregator.authority_wrapped_anew")
    return authority


async def _own(database: Database, certificate: Path, key: Path) -> Authority:
    """The operator's own files; the database gets the certificate, so that invitations can name it."""
    authority = await asyncio.to_thread(_read_files, certificate, key)
    async with database.transaction() as session:
        row = await keep_authority(session, authority.certificate_pem(), None)
        if row.certificate != authority.certificate_pem():
            before = x509.load_pem_x509_certificate(row.certificate.encode())
            if before.public_key() == authority.certificate.public_key():
                _log.info("aggregator.authority_renewed", until=authority.certificate.not_valid_after_utc.isoformat())
            else:
                _log.warning(
                    "aggregator.authority_replaced", reason="certificates of the one before are refused from now on"
                )
            row.certificate, row.wrapped_key = authority.certificate_pem(), None
    return authority


def _read_files(certificate: Path, key: Path) -> Authority:
    try:
        return read_authority(certificate.read_bytes(), key.read_bytes(), None, f"{certificate}, {key}")
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _wrapping(internal_token: str) -> str:
    return derived_secret(SecretKind.INTERNAL, internal_token, b"authority")
