"""Blobs on their way up: announced with what is in them, then named in a delivery."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedafd.aggregator.announcing import Announcement
from fedafd.aggregator.arrivals import ArrivingBlob
from fedafd.aggregator.context import Context
from fedafd.artifacts.keys import RoundObjects
from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.config import AveragingMode, FederationConfig
from fedafd.domain.errors import NotFoundError, RoundClosedError, UploadError
from fedafd.domain.kinds import ParticipantKind, UploadPurpose
from fedafd.persistence.artifact_repository import get_upload
from fedafd.persistence.caller_repository import CallingClient, WaitingPart
from fedafd.persistence.models import RoundRow, UploadRow
from fedafd.persistence.participation_repository import current_participation
from fedafd.persistence.round_repository import config_of_round, get_round
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.rpc.codes import purpose_from_wire
from fedafd.telemetry.logging import add_context

__all__ = [
    "Assembled",
    "announced",
    "announced_upload",
    "assemble",
    "begin_upload",
    "check_id",
    "open_participation",
]

_SMALLEST_CHUNK = 64 << 10
_LARGEST_CHUNK = 2 << 20
_TRIES_OF_FULL_SIZE = 2
_HEX = frozenset("0123456789abcdef")


async def open_participation(context: Context, client: CallingClient, round_id: str) -> tuple[WaitingPart, RoundRow]:
    """The client's unsettled part in that round. Raises RoundClosedError, NotFoundError."""
    check_id(round_id, "round_id")
    remembered = context.callers.of(client.id)
    if remembered is not None and remembered.part is not None and remembered.part.round_id == round_id:
        row = await context.rounds.row(context.database, round_id)
        add_context(round_number=row.number)
        return remembered.part, row
    async with context.database.snapshot() as session:
        current = await current_participation(session, client.id)
        if current is not None and current[1].id == round_id:
            add_context(round_number=current[1].number)
            return WaitingPart.of(current[0]), current[1]
        row = await get_round(session, round_id)
    raise RoundClosedError(f"round {row.number} waits for nothing from client {client.name} (it is {row.state})")


def check_id(text: str, field: str) -> None:
    """Raise NotFoundError unless a text can be an id of ours: no other is quoted anywhere."""
    if len(text) != 32 or not set(text) <= _HEX:
        raise NotFoundError(f"{field}: there is no such id")


async def begin_upload(
    context: Context, client: CallingClient, request: pb.BeginUploadRequest
) -> pb.BeginUploadResponse:
    """Announce a blob; says which chunks are missing. Raises UploadError for a manifest that does not add up."""
    purpose = purpose_from_wire(request.upload_purpose)
    part, row = await open_participation(context, client, request.round_id)
    config = config_of_round(row)
    _check_sender(client, purpose)
    _check_manifest(request, purpose, config)
    announcement = Announcement(
        round_id=row.id,
        client_id=client.id,
        purpose=purpose.value,
        sha256=request.sha256,
        size_bytes=request.size_bytes,
        chunk_size_bytes=request.chunk_size_bytes,
        chunk_sha256=tuple(request.chunk_sha256),
        quota_bytes=_quota(config),
    )
    upload, is_new = await context.announcements.take(announcement)
    context.uploads.keep(upload)
    blob = ArrivingBlob(context.store, row, upload)
    arrived_bytes = 0 if is_new else await blob.size_arrived()
    answer = pb.BeginUploadResponse(upload_id=upload.id, missing_chunks=blob.missing(arrived_bytes))
    if request.direct:
        if moved := context.direct.moved(upload.id, arrived_bytes):
            context.progress.moved(row.federation_id, part.id, up=moved)
        for form in context.direct.forms(blob.key, upload, answer.missing_chunks):
            answer.forms.add(
                url=form.url, fields=form.fields, offset_bytes=form.offset_bytes, length_bytes=form.length_bytes
            )
    return answer


@dataclass(frozen=True)
class Assembled:
    """A complete, verified blob: a file with its content, and the entry that names it."""

    purpose: UploadPurpose
    file: Path
    entry: ArtifactRef
    blob: ArrivingBlob


async def announced_upload(context: Context, client: CallingClient, upload_id: str) -> UploadRow:
    """The client's own upload. Raises NotFoundError."""
    check_id(upload_id, "upload_id")
    upload = context.uploads.find(upload_id, client.id)
    if upload is None:
        async with context.database.snapshot() as session:
            upload = await get_upload(session, upload_id, client.id)
        context.uploads.keep(upload)
    return upload


async def announced(context: Context, client: CallingClient, row: RoundRow, upload_ids: list[str]) -> list[UploadRow]:
    """The client's uploads of those ids in the round. Raises NotFoundError, UploadError."""
    uploads = [await announced_upload(context, client, upload_id) for upload_id in upload_ids]
    for upload in uploads:
        if upload.round_id != row.id:
            raise UploadError(f"upload {upload.id}: belongs to another round")
    return uploads


async def assemble(
    context: Context, client: CallingClient, row: RoundRow, upload: UploadRow, scratch: Path
) -> Assembled:
    """The blob of an upload, if all of it is there. Raises UploadError when some is missing or does not fit."""
    # Weights count once per client, even where two clients send the same bytes.
    owner = client.name if upload.purpose == UploadPurpose.WEIGHTS else None
    key = RoundObjects(row.federation_id, row.number).artifact(upload.purpose, upload.sha256, client=owner)
    blob = ArrivingBlob(context.store, row, upload)
    entry: ArtifactRef = {
        "sha256": upload.sha256,
        "size_bytes": upload.size_bytes,
        "purpose": upload.purpose,
        "key": key,
    }
    return Assembled(UploadPurpose(upload.purpose), await blob.file(scratch), entry, blob)


def _quota(config: FederationConfig) -> int:
    """Bytes that a client may announce in a round: of each purpose that the federation takes two blobs of any size."""
    purposes = 1 + config.accept_personalized_models + (config.averaging is not AveragingMode.OFF)
    return _TRIES_OF_FULL_SIZE * purposes * config.max_upload_bytes


def _check_sender(client: CallingClient, purpose: UploadPurpose) -> None:
    if (client.kind == ParticipantKind.REGION) != (purpose is UploadPurpose.MERGED_STATES):
        raise UploadError(f"{client.name} is enrolled as {client.kind}, and such a participant sends no {purpose}")


def _check_manifest(request: pb.BeginUploadRequest, purpose: UploadPurpose, config: FederationConfig) -> None:
    if purpose is UploadPurpose.PERSONALIZED_MODEL and not config.accept_personalized_models:
        raise UploadError("this federation takes no personalized models; set share.personalized_model: false")
    if purpose is UploadPurpose.WEIGHTS and config.averaging is AveragingMode.OFF:
        raise UploadError("this federation averages no weights; send none")
    if not 1 <= request.size_bytes <= config.max_upload_bytes:
        raise UploadError(f"size is {request.size_bytes} bytes; must be 1 to {config.max_upload_bytes}")
    if not _SMALLEST_CHUNK <= request.chunk_size_bytes <= _LARGEST_CHUNK:
        raise UploadError(
            f"chunk size is {request.chunk_size_bytes}; must be {_SMALLEST_CHUNK} to {_LARGEST_CHUNK} bytes"
        )
    if len(request.chunk_sha256) != -(-request.size_bytes // request.chunk_size_bytes):
        raise UploadError(f"{len(request.chunk_sha256)} chunk hashes do not fit {request.size_bytes} bytes")
    for name in (request.sha256, *request.chunk_sha256):
        if len(name) != 64 or not set(name) <= _HEX:
            raise UploadError("a hash is not a SHA-256 in lower-case hexadecimal")
