"""Settling a delivery: everything is checked before it counts; what is refused is refused with a reason, once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.aggregator.acceptance import Checked
from fedafd.aggregator.arrivals import ArrivingBlob, scratch_folder
from fedafd.aggregator.context import Context
from fedafd.aggregator.model_files import store_model_files
from fedafd.aggregator.model_parts import model_content
from fedafd.aggregator.numbers import check_finite
from fedafd.aggregator.region_delivery import as_stored, check_region
from fedafd.aggregator.tasks import public_set_manifest
from fedafd.aggregator.uploads import Assembled, announced, assemble, open_participation
from fedafd.artifacts.keys import RoundObjects, personalized_model_file
from fedafd.artifacts.merged_states import ClientCounts
from fedafd.artifacts.ref import ArtifactRef
from fedafd.artifacts.representations import check_representations
from fedafd.artifacts.weight_updates import check_weight_update
from fedafd.domain.config import AveragingMode
from fedafd.domain.errors import (
    ConfigurationError,
    InvalidRequestError,
    PublicSetMismatchError,
    RepresentationError,
    RoundClosedError,
    UploadError,
    UploadIncompleteError,
)
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, Modality, ParticipantKind, UploadPurpose
from fedafd.domain.leaving import CLIENT_METRICS
from fedafd.domain.states import ParticipationState
from fedafd.persistence.caller_repository import CallingClient, WaitingPart
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import RoundRow
from fedafd.persistence.participation_repository import find_participation, settle_participation
from fedafd.persistence.round_repository import config_of_round
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.storage.store import copy_of
from fedafd.telemetry.logging import get_logger

__all__ = ["commit_delivery"]

_log = get_logger(__name__)
_MOST_SAMPLES = 2**31 - 1


@dataclass(frozen=True)
class _Delivery:
    content: Assembled
    """Representations, or a region's merged states."""
    model_files: dict[str, ArtifactRef]
    weights: Assembled | None
    clients: ClientCounts | None = None
    """Of a region: whom it stands for."""


async def commit_delivery(
    context: Context, client: CallingClient, request: pb.CommitUploadRequest
) -> pb.CommitUploadResponse:
    """Settle the client's participation as delivered or rejected. Repeating it gives the same receipt.

    Raises RoundClosedError when the round does not wait for it, UploadError when chunks are still missing, and
    TooManyRequestsError when other deliveries fill the memory that there is for them.
    """
    async with context.commits.of(client.id):
        if not _waits(context, client, request.round_id):
            settled = await _settled(context, client, request.round_id)
            if settled is not None:
                return settled
        _check_numbers(request)
        try:
            return await _commit(context, client, request)
        except (UploadError, RoundClosedError):
            # The same commit, sent to another aggregator before, may have settled it and removed the chunks meanwhile.
            settled = await _settled(context, client, request.round_id)
            if settled is None:
                raise
            return settled


def _waits(context: Context, client: CallingClient, round_id: str) -> bool:
    """Whether the round waited for the client a moment ago; what was settled here since then is forgotten."""
    remembered = context.callers.of(client.id)
    return remembered is not None and remembered.part is not None and remembered.part.round_id == round_id


async def _commit(context: Context, client: CallingClient, request: pb.CommitUploadRequest) -> pb.CommitUploadResponse:
    participation, row = await open_participation(context, client, request.round_id)
    uploads = await announced(context, client, row, list(dict.fromkeys(request.upload_ids)))
    _check_model_bytes(request, row)
    # All is checked in pieces; what takes room is at most a copy, on a disk that may be memory.
    async with context.in_memory.room_for(sum(upload.size_bytes for upload in uploads)):
        with scratch_folder() as scratch:
            blobs = [await assemble(context, client, row, upload, scratch) for upload in uploads]
            accepted = await _settle(context, client, row, participation, blobs, request, scratch)
    for upload in uploads:
        context.metrics.uploads.labels(purpose=upload.purpose).inc()
        await ArrivingBlob(context.store, row, upload).discard()
        context.uploads.forget(upload.id)
    context.wakeups.changed(row.federation_id, clients=(client.id,))
    answer = accepted or await _settled(context, client, request.round_id)
    if answer is None:
        raise RoundClosedError(f"round {row.number} closed while the delivery was checked")
    return answer


def _check_model_bytes(request: pb.CommitUploadRequest, row: RoundRow) -> None:
    most = config_of_round(row).max_upload_bytes
    if not 0 <= request.model_bytes <= most:
        raise InvalidRequestError(f"model_bytes is {request.model_bytes}; must be 0 to {most}")


async def _settle(
    context: Context,
    client: CallingClient,
    row: RoundRow,
    participation: WaitingPart,
    blobs: list[Assembled],
    request: pb.CommitUploadRequest,
    scratch: Path,
) -> pb.CommitUploadResponse | None:
    """Check what was uploaded, and accept it, or reject it and keep none of it; the answer if it was accepted."""
    receipt = _receipt(participation, blobs)
    try:
        delivery = await _checked(context, client, row, blobs, request, scratch)
    except UploadIncompleteError:
        raise
    except (RepresentationError, PublicSetMismatchError, UploadError, ConfigurationError) as error:
        await _reject(context, client, row, participation, receipt, str(error))
        return None
    kept = delivery.content
    await kept.blob.finish(kept.entry["key"])
    if delivery.weights is not None:
        # They are needed when the round asks nobody any more: stored twice.
        key = delivery.weights.entry["key"]
        await delivery.weights.blob.finish(key)
        await asyncio.to_thread(context.store.put_file, copy_of(key), delivery.weights.file)
    return await _accept(context, client, row, participation, receipt, delivery, request)


def _check_numbers(request: pb.CommitUploadRequest) -> None:
    """Raise InvalidRequestError unless the metrics' values are finite, and the count is one."""
    check_finite(_metrics_of(request))
    if not 0 <= request.num_private_samples <= _MOST_SAMPLES:
        raise InvalidRequestError("num_private_samples must be 0, for not told, or a number of samples")


def _metrics_of(request: pb.CommitUploadRequest) -> dict[str, float]:
    """The metrics with names of ours. An agent that is newer than this aggregator may send others: they are left out,
    as no text of an agent is kept, and its delivery counts."""
    return {name: request.metrics[name] for name in sorted(CLIENT_METRICS & request.metrics.keys())}


async def _settled(context: Context, client: CallingClient, round_id: str) -> pb.CommitUploadResponse | None:
    async with context.database.snapshot() as session:
        row = await find_participation(session, round_id, client.id)
    if row is None or row.receipt is None or row.settled_at is None:
        return None
    delivered = row.state == ParticipationState.DELIVERED.value
    return _answer(row.receipt, row.settled_at, None if delivered else row.reason or "")


async def _checked(
    context: Context,
    client: CallingClient,
    row: RoundRow,
    blobs: list[Assembled],
    request: pb.CommitUploadRequest,
    scratch: Path,
) -> _Delivery:
    if client.kind == ParticipantKind.REGION:
        content, clients = await check_region(context, client, row, blobs)
        return _Delivery(content, {}, None, clients)
    config = config_of_round(row)
    manifest = await public_set_manifest(context, row.public_set_sha256)
    reps = [blob for blob in blobs if blob.purpose is UploadPurpose.REPRESENTATIONS]
    models = [blob for blob in blobs if blob.purpose is UploadPurpose.PERSONALIZED_MODEL]
    weights = [blob for blob in blobs if blob.purpose is UploadPurpose.WEIGHTS]
    if len(reps) != 1 or len(models) > 1 or len(weights) > 1:
        raise UploadError(
            "a delivery holds one blob of representations, and at most one model and one of weights; found"
            f" {len(reps)}, {len(models)}, {len(weights)}"
        )
    if config.averaging is not AveragingMode.OFF and not weights:
        raise UploadError("this federation averages weights, and the delivery holds none; update the agent")
    await asyncio.to_thread(
        check_representations,
        reps[0].file,
        modalities=ClientKind(client.kind).modalities,
        num_samples=manifest.num_samples(),
        embedding_dim=config.embedding_dim,
        public_set_sha256=row.public_set_sha256,
        dtype=config.wire_dtype,
    )
    if weights:
        await asyncio.to_thread(check_weight_update, weights[0].file, ClientKind(client.kind))
    files = await _model(context, client, row, models[0], request, scratch) if models else {}
    return _Delivery(reps[0], files, weights[0] if weights else None)


async def _model(
    context: Context,
    client: CallingClient,
    row: RoundRow,
    model: Assembled,
    request: pb.CommitUploadRequest,
    scratch: Path,
) -> dict[str, ArtifactRef]:
    """Check and store the files. Raises UploadError, and UploadIncompleteError for parts that make no whole."""
    upload = model.blob.upload
    most_bytes = max(upload.size_bytes, request.model_bytes)
    try:
        with model.file.open("rb") as blob:
            files = await model_content(context, client, row.id, blob, most_bytes=most_bytes)
            return await asyncio.to_thread(
                store_model_files,
                context.store,
                files,
                arriving=lambda name: RoundObjects(row.federation_id, row.number).arriving(f"{upload.id}-{name}"),
                target=lambda path: personalized_model_file(row.federation_id, client.name, row.number, path),
                scratch=scratch,
            )
    except UploadIncompleteError:
        await model.blob.discard()  # who commits it again sends it again
        raise


async def _reject(
    context: Context, client: CallingClient, row: RoundRow, participation: WaitingPart, receipt: str, reason: str
) -> None:
    async with context.database.transaction() as session:
        values = {"reason": reason, "receipt": receipt}
        if await settle_participation(session, participation.id, ParticipationState.REJECTED, **values):
            _record(session, "participation.rejected", client, row, reason=reason)
            context.metrics.deliveries.labels(outcome="rejected").inc()


async def _accept(
    context: Context,
    client: CallingClient,
    row: RoundRow,
    participation: WaitingPart,
    receipt: str,
    delivery: _Delivery,
    request: pb.CommitUploadRequest,
) -> pb.CommitUploadResponse | None:
    metrics = _metrics_of(request)
    if len(metrics) < len(request.metrics):
        _log.info("delivery.metrics_left_out", count=len(request.metrics) - len(metrics))
    unwritten = context.progress.take(participation.id)
    checked = Checked(
        client=client,
        row=row,
        participation=participation,
        receipt=receipt,
        content=delivery.content.entry,
        modalities=_modalities(client, delivery),
        region_clients=None if delivery.clients is None else as_stored(delivery.clients),
        num_clients=None if delivery.clients is None else delivery.clients.total,
        weights=None if delivery.weights is None else delivery.weights.entry,
        model_files=delivery.model_files,
        metrics=metrics,
        num_private_samples=request.num_private_samples or None,
        unwritten=unwritten,
    )
    accepted_at = await context.acceptances.accept(checked)
    if accepted_at is None:
        return None
    context.metrics.deliveries.labels(outcome="delivered").inc()
    return _answer(receipt, accepted_at)


def _modalities(client: CallingClient, delivery: _Delivery) -> tuple[Modality, ...]:
    """Of which something was delivered."""
    if delivery.clients is not None:
        return tuple(delivery.clients.by_modality)
    return ClientKind(client.kind).modalities


def _answer(receipt: str, settled_at: datetime, rejection_reason: str | None = None) -> pb.CommitUploadResponse:
    at = Timestamp()
    at.FromDatetime(settled_at)
    return pb.CommitUploadResponse(
        receipt=receipt,
        accepted=rejection_reason is None,
        rejection_reason=rejection_reason or "",
        settled_at=at,
    )


def _record(session: AsyncSession, kind: str, client: CallingClient, row: RoundRow, **data: Any) -> None:
    actor = f"client:{client.name}"
    record_event(session, kind, federation_id=row.federation_id, actor=actor, round=row.number, **data)


def _receipt(participation: WaitingPart, blobs: list[Assembled]) -> str:
    """Of this part in the round and of the content that was delivered for it."""
    content = sorted((blob.purpose.value, blob.entry["sha256"]) for blob in blobs)
    return sha256_of(json.dumps(["receipt", participation.id, *content]).encode())
