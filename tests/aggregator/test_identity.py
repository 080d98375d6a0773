"""A credential is bound to the key that its agent made: over real gRPC, whoever lacks the key is refused."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from tests.aggregator.world import World, refused

from fedafd.domain.kinds import ParticipantKind
from fedafd.persistence.client_repository import get_client, invite_again, invite_client, revoke_client
from fedafd.persistence.event_repository import events_after
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.rpc.authority import new_authority, new_key
from fedafd.rpc.client_key import ClientKey
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.proofs import PROOF_SECONDS, proof_metadata
from fedafd.rpc.sessions import session_metadata

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
FETCH = "/fedafd.v1.AggregatorService/FetchTask"
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


@dataclass
class Site:
    """An agent's side of its identity."""

    token: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    session: str = field(default_factory=lambda: secrets.token_hex(8))
    secret: str = ""
    certificate: bytes = b""

    def request(self) -> bytes:
        pem = self.key.private_bytes(Encoding.PEM, *_PLAIN)
        return ClientKey(pem.decode()).request()

    async def enrol(self, world: World, *, keyed: bool = True) -> pb.EnrollResponse:
        request = pb.EnrollRequest(
            token=self.token,
            kind=types_pb2.CLIENT_KIND_IMAGE,
            nonce=self.nonce,
            certificate_request=self.request() if keyed else b"",
        )
        answer: pb.EnrollResponse = await world.agents.Enroll(request)
        self.secret, self.certificate = answer.credential, answer.certificate
        return answer

    def bearer(self) -> tuple[tuple[str, str], ...]:
        return (*bearer_metadata(self.secret), *session_metadata(self.session))

    def signed(self, path: str = FETCH, **changes: Any) -> tuple[tuple[str, str], ...]:
        values: dict[str, Any] = {
            "key": self.key,
            "certificate": self.certificate,
            "secret": self.secret,
            "path": path,
        } | changes
        return (*self.bearer(), *proof_metadata(**values))

    async def renew(self, world: World) -> None:
        request = pb.RenewCertificateRequest(certificate_request=self.request())
        self.certificate = (await world.agents.RenewCertificate(request, metadata=self.bearer())).certificate


def _plain() -> tuple[Any, Any]:
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    return PrivateFormat.PKCS8, NoEncryption()


_PLAIN = _plain()


async def invited(world: World, name: str = "north") -> Site:
    async with world.context.database.transaction() as session:
        _, token = await invite_client(session, "trial", name, ParticipantKind.IMAGE, timedelta(hours=1))
    return Site(token)


async def enrolled(world: World, name: str = "north") -> Site:
    site = await invited(world, name)
    await site.enrol(world)
    return site


async def fetch(world: World, metadata: tuple[tuple[str, str], ...]) -> None:
    await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=metadata)


async def is_refused(world: World, metadata: tuple[tuple[str, str], ...]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await fetch(world, metadata)
    return refused(raised, *REFUSED)


async def test_the_certificate_names_the_client_and_each_call_is_signed_anew(world: World) -> None:
    site = await invited(world)
    answer = await site.enrol(world)
    certificate = x509.load_der_x509_certificate(answer.certificate)
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(answer.authority))
    assert certificate.subject.rfc4514_string() == f"CN={answer.client_id}"
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert timedelta(days=30) <= lifetime < timedelta(days=31)
    for _ in range(3):
        await fetch(world, site.signed())


async def test_the_audit_log_tells_from_where_a_client_enrolled(world: World) -> None:
    await enrolled(world)
    async with world.context.database.snapshot() as session:
        told = [(each.kind, each.actor, each.address) for each in await events_after(session, None, 0)]
    assert ("client.enrolled", "client:north", "127.0.0.1") in told


async def test_a_stolen_credential_is_worth_nothing_without_its_key(world: World) -> None:
    site, other = await enrolled(world), await enrolled(world, "south")
    assert "bound to a key" in await is_refused(world, site.bearer())
    thief = new_key()
    assert "not signed by" in await is_refused(world, site.signed(key=thief))
    own = replace(other, secret=site.secret)  # a good certificate, but another client's
    assert "not this client's" in await is_refused(world, own.signed())
    await fetch(world, site.signed())


async def test_a_certificate_that_another_authority_signed_is_refused(world: World) -> None:
    site = await enrolled(world)
    async with world.context.database.transaction() as session:
        client = await get_client(session, "trial", "north")
    forged = new_authority().sign_client(site.key.public_key(), "trial", client.id, timedelta(days=1))
    assert "authority" in await is_refused(world, site.signed(certificate=forged.public_bytes(Encoding.DER)))


async def test_a_proof_is_of_one_method_and_one_credential(world: World) -> None:
    site = await enrolled(world)
    assert "another call" in await is_refused(world, site.signed("/fedafd.v1.AggregatorService/CommitUpload"))
    proof = proof_metadata(site.key, site.certificate, "fedafd-client.other", FETCH)
    assert "another credential" in await is_refused(world, (*site.bearer(), *proof))


async def test_a_proof_is_good_once_and_for_minutes(world: World) -> None:
    site = await enrolled(world)
    used = site.signed()
    await fetch(world, used)
    late = site.signed(now=time.time() - PROOF_SECONDS - 5)
    early = site.signed(now=time.time() + PROOF_SECONDS + 5)
    for metadata, words in ((used, "used before"), (late, "before"), (early, "after")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await fetch(world, metadata)
        assert words in refused(raised, grpc.StatusCode.UNAUTHENTICATED, "proof-stale")
    await fetch(world, site.signed(now=time.time() - PROOF_SECONDS + 30))


@pytest.mark.parametrize(
    "proof", ["", "x", "a.b.c", "e30.e30.", "eyJhbGciOiJub25lIiwieDVjIjpbIkFBQUEiXX0.e30.", "é".encode().hex()]
)
async def test_what_is_no_proof_is_refused_and_no_failure(world: World, proof: str) -> None:
    site = await enrolled(world)
    await is_refused(world, (*site.bearer(), ("fedafd-proof", proof)))


async def test_the_lost_answer_of_an_enrolment_is_asked_for_again_by_the_same_key_only(world: World) -> None:
    site = await invited(world)
    first = await site.enrol(world)
    again = await site.enrol(world)
    assert (first.credential, first.client_id) == (again.credential, again.client_id)
    await fetch(world, site.signed())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await replace(site, key=new_key()).enrol(world)
    refused(raised, grpc.StatusCode.ALREADY_EXISTS, "already-enrolled")


async def test_a_certificate_is_renewed_for_its_key_alone(world: World) -> None:
    site = await enrolled(world)
    old = site.certificate
    await site.renew(world)
    assert site.certificate != old
    await fetch(world, site.signed())
    await fetch(world, site.signed(certificate=old))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await replace(site, key=new_key()).renew(world)
    refused(raised, grpc.StatusCode.PERMISSION_DENIED, "forbidden")
    async with world.context.database.transaction() as session:
        kinds = [event.kind for event in await events_after(session, "trial", 0)]
    assert kinds.count("client.certificate_renewed") == 1


async def test_an_ended_certificate_is_refused_and_not_renewed(world: World) -> None:
    object.__setattr__(world.context, "certificate_lifetime", timedelta(seconds=0.5))
    site = await enrolled(world)
    await asyncio.sleep(1.6)  # certificates end at whole seconds
    assert "ended on" in await is_refused(world, site.signed())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await site.renew(world)
    assert "new invitation" in refused(raised, *REFUSED)


async def test_an_older_agents_credential_is_bound_to_its_first_key(world: World) -> None:
    site = await invited(world)
    await site.enrol(world, keyed=False)
    await fetch(world, site.bearer())
    for _ in range(2):  # the answer to the first was lost
        await site.renew(world)
    await fetch(world, site.signed())
    assert "bound to a key" in await is_refused(world, site.bearer())
    async with world.context.database.transaction() as session:
        kinds = [event.kind for event in await events_after(session, "trial", 0)]
    assert kinds.count("client.key_bound") == 1


async def test_credentials_without_a_key_are_refused_where_that_is_asked_for(world: World) -> None:
    site = await invited(world)
    await site.enrol(world, keyed=False)
    object.__setattr__(world.context, "bound_only", True)
    assert "bound to no key" in await is_refused(world, site.bearer())


async def test_where_keys_are_required_a_copied_credential_without_one_cannot_be_bound_to_the_thiefs(
    world: World,
) -> None:
    site = await invited(world)
    await site.enrol(world, keyed=False)
    object.__setattr__(world.context, "bound_only", True)
    thief = replace(site, key=new_key())
    with pytest.raises(grpc.aio.AioRpcError, match="bound to no key") as raised:
        await thief.renew(world)
    refused(raised, *REFUSED)
    object.__setattr__(world.context, "bound_only", False)
    await site.renew(world)
    await fetch(world, site.signed())


async def test_an_enrolment_without_a_key_is_refused_there_and_leaves_the_token_good(world: World) -> None:
    site = await invited(world)
    object.__setattr__(world.context, "bound_only", True)
    with pytest.raises(grpc.aio.AioRpcError, match="comes without a key") as raised:
        await site.enrol(world, keyed=False)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await site.enrol(world)
    await fetch(world, site.signed())


async def test_a_new_invitation_or_a_revocation_ends_key_and_certificate(world: World) -> None:
    site = await enrolled(world)
    async with world.context.database.transaction() as session:
        token = await invite_again(session, await get_client(session, "trial", "north"), timedelta(hours=1))
    await is_refused(world, site.signed())
    anew = Site(token)
    await anew.enrol(world)
    await fetch(world, anew.signed())
    await is_refused(world, replace(anew, key=site.key, certificate=site.certificate).signed())
    async with world.context.database.transaction() as session:
        await revoke_client(session, await get_client(session, "trial", "north"))
    assert "revoked" in await is_refused(world, anew.signed())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await anew.renew(world)
    refused(raised, *REFUSED)


def bad_requests() -> dict[str, bytes]:
    good = Site("").request()
    broken = bytearray(good)
    broken[-1] ^= 1
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    from cryptography.hazmat.primitives.hashes import SHA256

    long_rsa = builder.sign(rsa.generate_private_key(65537, 2048), SHA256()).public_bytes(Encoding.DER)
    other_curve = builder.sign(ec.generate_private_key(ec.SECP384R1()), SHA256()).public_bytes(Encoding.DER)
    return {"noise": b"noise", "forged": bytes(broken), "long": good * 20, "rsa": long_rsa, "p384": other_curve}


@pytest.mark.parametrize("kind", ["noise", "forged", "long", "rsa", "p384"])
async def test_a_request_that_is_none_spends_no_token(world: World, kind: str) -> None:
    site = await invited(world)
    request = pb.EnrollRequest(
        token=site.token, kind=types_pb2.CLIENT_KIND_IMAGE, certificate_request=bad_requests()[kind]
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.Enroll(request)
    assert "certificate_request" in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")
    await site.enrol(world)


async def test_an_aggregator_without_an_authority_enrols_as_before(world: World) -> None:
    object.__setattr__(world.context, "authority", None)
    site = await invited(world)
    answer = await site.enrol(world)
    assert answer.credential
    assert not answer.certificate
    await fetch(world, site.bearer())
