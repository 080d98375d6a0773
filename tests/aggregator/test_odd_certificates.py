"""Certificates that are not valid yet, and requests for more than a client's: over real gRPC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.aggregator.test_identity import enrolled, fetch, invited, is_refused
from tests.aggregator.world import World

from fedafd.persistence.client_repository import get_client
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.rpc import authority as authorities
from fedafd.rpc.authority import AGGREGATOR_NAME

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_a_certificate_that_is_not_valid_yet_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await enrolled(world)
    async with world.context.database.snapshot() as session:
        client = await get_client(session, "trial", "north")
    assert world.context.authority is not None
    monkeypatch.setattr(authorities, "_CLOCK_SLACK", -timedelta(hours=2))
    early = world.context.authority.sign_client(site.key.public_key(), "trial", client.id, timedelta(days=30))
    assert early.not_valid_before_utc > datetime.now(UTC)
    assert "not valid before" in await is_refused(world, site.signed(certificate=early.public_bytes(Encoding.DER)))
    await fetch(world, site.signed())


async def test_what_a_request_asks_for_beside_its_key_does_not_count(world: World) -> None:
    """Names of the aggregator and of another client, and the right to sign others."""
    other, site = await enrolled(world, "south"), await invited(world)
    async with world.context.database.snapshot() as session:
        south = await get_client(session, "trial", "south")
    names = [
        x509.DNSName(AGGREGATOR_NAME),
        x509.UniformResourceIdentifier(f"urn:fedafd:client:trial:{south.id}"),
    ]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, south.id)]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(site.key, SHA256())
    )
    answer = await world.agents.Enroll(
        pb.EnrollRequest(
            token=site.token,
            kind=types_pb2.CLIENT_KIND_IMAGE,
            nonce=site.nonce,
            certificate_request=request.public_bytes(Encoding.DER),
        )
    )
    site.secret, site.certificate = answer.credential, answer.certificate
    certificate = x509.load_der_x509_certificate(answer.certificate)
    extension = certificate.extensions.get_extension_for_class
    assert certificate.subject.rfc4514_string() == f"CN={answer.client_id}"
    assert answer.client_id != south.id
    said = extension(x509.SubjectAlternativeName).value
    assert [name.value for name in said] == [f"urn:fedafd:client:trial:{answer.client_id}"]
    assert not extension(x509.BasicConstraints).value.ca
    assert list(extension(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert "not this client's" in await is_refused(world, other.signed(key=site.key, certificate=site.certificate))
    await fetch(world, site.signed())
