"""The authority: made once however many aggregators start, readable with the internal token alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from tests.databases import migrated

from fedafd.aggregator.authority import open_authority
from fedafd.aggregator.settings import AggregatorSettings
from fedafd.domain.errors import ConfigurationError
from fedafd.persistence.authority_repository import find_authority
from fedafd.persistence.database import Database
from fedafd.rpc.authority import Authority, authority_of_key, new_authority, new_key


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await asyncio.to_thread(migrated, database_url)
    database = Database(database_url)
    yield database
    await database.close()


def settings(database: Database, **changes: Any) -> AggregatorSettings:
    values = {
        "database_url": "sqlite:///x",
        "redis_url": "redis://h/0",
        "store": {"url": "file:///x"},
        "internal_token": "t" * 32,
    }
    return AggregatorSettings(**values | changes)


def files(folder: Path, authority: Authority) -> dict[str, Path]:
    certificate, key = folder / "authority.pem", folder / "authority.key"
    certificate.write_text(authority.certificate_pem())
    encoding, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(authority.key.private_bytes(serialization.Encoding.PEM, encoding, plain))
    return {"authority_certificate": certificate, "authority_key": key}


async def test_replicas_that_start_at_once_agree(database: Database) -> None:
    opened = await asyncio.gather(*(open_authority(database, settings(database)) for _ in range(4)))
    assert len({each.certificate_pem() for each in opened}) == 1
    later = await open_authority(database, settings(database))
    assert later.key.private_numbers() == opened[0].key.private_numbers()
    async with database.transaction() as session:
        row = await find_authority(session)
    assert row is not None
    assert row.wrapped_key is not None
    assert "ENCRYPTED" in row.wrapped_key


async def test_another_internal_token_opens_it_only_after_the_one_before(database: Database) -> None:
    first = await open_authority(database, settings(database))
    with pytest.raises(ConfigurationError, match="PREVIOUS_INTERNAL_TOKEN"):
        await open_authority(database, settings(database, internal_token="u" * 32))
    both = settings(database, internal_token="u" * 32, previous_internal_token="t" * 32)
    assert (await open_authority(database, both)).certificate_pem() == first.certificate_pem()
    alone = await open_authority(database, settings(database, internal_token="u" * 32))
    assert alone.certificate_pem() == first.certificate_pem()


async def test_the_operators_own_files_are_used_and_needed_from_then_on(database: Database, tmp_path: Path) -> None:
    own = new_authority()
    opened = await open_authority(database, settings(database, **files(tmp_path, own)))
    assert opened.certificate_pem() == own.certificate_pem()
    with pytest.raises(ConfigurationError, match="AUTHORITY_CERTIFICATE"):
        await open_authority(database, settings(database))


async def test_files_that_are_no_authority_are_named(database: Database, tmp_path: Path) -> None:
    paths = files(tmp_path, new_authority())
    other = tmp_path / "other"
    other.mkdir()
    mixed = paths | {"authority_key": files(other, new_authority())["authority_key"]}
    with pytest.raises(ConfigurationError, match="not the certificate's"):
        await open_authority(database, settings(database, **mixed))
    paths["authority_key"].write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"authority\.key"):
        await open_authority(database, settings(database, **paths))
    paths["authority_key"].unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await open_authority(database, settings(database, **paths))


async def test_a_new_certificate_of_the_same_key_keeps_clients_certificates_good(
    database: Database, tmp_path: Path
) -> None:
    key, client = new_key(), new_key()
    first = authority_of_key(key)
    await open_authority(database, settings(database, **files(tmp_path, first)))
    held = first.sign_client(client.public_key(), "trial", "c1", timedelta(days=1))
    renewed = authority_of_key(key)
    assert renewed.certificate_pem() != first.certificate_pem()
    opened = await open_authority(database, settings(database, **files(tmp_path, renewed)))
    assert opened.certificate_pem() == renewed.certificate_pem()
    assert opened.read_client(held.public_bytes(serialization.Encoding.DER)).client_id == "c1"


async def test_an_authority_that_has_ended_is_named_at_the_start(database: Database, tmp_path: Path) -> None:
    own = new_authority()
    paths = files(tmp_path, own)
    past = datetime.now(UTC) - timedelta(days=2)
    ended = (
        x509.CertificateBuilder()
        .subject_name(own.certificate.subject)
        .issuer_name(own.certificate.subject)
        .public_key(own.key.public_key())
        .serial_number(1)
        .not_valid_before(past - timedelta(days=9))
        .not_valid_after(past)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(own.key, hashes.SHA256())
    )
    paths["authority_certificate"].write_bytes(ended.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(ConfigurationError, match=rf"authority\.pem.*expired on {past:%Y-%m-%d}"):
        await open_authority(database, settings(database, **paths))
