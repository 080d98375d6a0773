"""Enrolment, and the certificates of clients: the first one with the credential, others before it ends."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedafd.aggregator.context import Context
from fedafd.aggregator.proofs import need_bound
from fedafd.domain.errors import ForbiddenError, InvalidRequestError, UnauthenticatedError
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.client_repository import bind_key, enrol_client
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import utc_now
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.rpc.authority import Authority, checked_request, key_id
from fedafd.rpc.codes import client_kind_from_wire

__all__ = ["enrol", "renew_certificate"]

_NONCE_BYTES = (16, 64)


async def enrol(context: Context, request: pb.EnrollRequest) -> pb.EnrollResponse:
    """Trade a token for a credential, bound to the key of the certificate request if there is one.

    Raises InvalidRequestError, also for one without a key where the federation takes no such, and what enrol_client
    raises.
    """
    kind = client_kind_from_wire(request.kind)
    if kind is None:
        raise InvalidRequestError("kind must be image, text, pair or region")
    authority = context.authority if request.certificate_request else None
    key = None if authority is None else checked_request(request.certificate_request)
    bound = None if key is None else key_id(key)
    answer = pb.EnrollResponse()
    async with context.database.transaction() as session:
        client, credential, new = await enrol_client(
            session, request.token, kind, _version(request), _nonce(request), bound
        )
        if bound is None and context.bound_only:  # what was written until here is not kept
            raise InvalidRequestError(
                "the enrolment comes without a key, and this federation takes no credential that is bound to none;"
                " update the agent, the token is still good"
            )
        if authority is not None and key is not None:
            issued = authority.sign_client(key, client.federation_id, client.id, context.certificate_lifetime)
            await bind_key(session, client, key_id(key), issued.not_valid_after_utc)
            answer.certificate, answer.authority = _der(issued), authority.certificate_der()
        if new:
            record_event(
                session,
                "client.enrolled",
                federation_id=client.federation_id,
                actor=f"client:{client.name}",
                kind_of_client=client.kind,
                agent_version=client.agent_version,
                key_sha256=bound,
            )
    context.wakeups.changed(client.federation_id, clients=(client.id,), rounds=False)
    answer.federation_id, answer.client_id, answer.client_name = client.federation_id, client.id, client.name
    answer.credential = credential
    return answer


async def renew_certificate(
    context: Context, client: CallingClient, request: pb.RenewCertificateRequest
) -> pb.RenewCertificateResponse:
    """Another certificate of the client's key; the first of an older agent's binds its credential to the key.

    Raises InvalidRequestError, ForbiddenError for another key, and UnauthenticatedError once the last one has ended,
    and for a credential that is bound to no key where the federation takes no such: whoever copied it would bind it to
    a key of their own.
    """
    need_bound(client, bound_only=context.bound_only)
    authority = _need(context.authority)
    key = checked_request(request.certificate_request)
    ended = client.certificate_until
    if ended is not None and ended < utc_now():
        raise UnauthenticatedError(
            f"client {client.name}: its certificate ended on {ended:%Y-%m-%d %H:%M} UTC, too long ago to renew it; ask"
            " the operator for a new invitation"
        )
    issued = authority.sign_client(key, client.federation_id, client.id, context.certificate_lifetime)
    async with context.database.transaction() as session:
        if not await bind_key(session, client, key_id(key), issued.not_valid_after_utc):
            raise ForbiddenError(
                f"client {client.name}: its credential is bound to another key, or void; a new key needs a new"
                " invitation"
            )
        record_event(
            session,
            "client.key_bound" if client.key_sha256 is None else "client.certificate_renewed",
            federation_id=client.federation_id,
            actor=f"client:{client.name}",
            client=client.name,
            key_sha256=key_id(key),
            until=issued.not_valid_after_utc.isoformat(),
        )
    context.wakeups.changed(client.federation_id, clients=(client.id,), rounds=False)
    return pb.RenewCertificateResponse(certificate=_der(issued), authority=authority.certificate_der())


def _need(authority: Authority | None) -> Authority:
    if authority is None:
        raise InvalidRequestError("this aggregator has no authority, so that it signs no certificates")
    return authority


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _nonce(request: pb.EnrollRequest) -> bytes:
    if request.nonce and not _NONCE_BYTES[0] <= len(request.nonce) <= _NONCE_BYTES[1]:
        raise InvalidRequestError(f"nonce: must be {_NONCE_BYTES[0]} to {_NONCE_BYTES[1]} random bytes, or unset")
    return bytes(request.nonce)


def _version(request: pb.EnrollRequest) -> str | None:
    software = request.software
    return f"{software.major}.{software.minor}.{software.patch}" if request.HasField("software") else None
