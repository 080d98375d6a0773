"""Settling a delivery: everything is checked before it counts; what is refused is refused with a reason, once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from safetensors import SafetensorError, deserialize
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.aggregator.arrivals import ArrivingBlob
from fedafd.aggregator.context import Context
from fedafd.aggregator.region_delivery import as_stored, check_region
from fedafd.aggregator.tasks import public_set_manifest
from fedafd.aggregator.uploads import Assembled, announced, assemble, open_participation
from fedafd.artifacts.folders import unpack_folder
from fedafd.artifacts.merged_states import ClientCounts
from fedafd.artifacts.representations import check_representations
from fedafd.artifacts.weight_updates import check_weight_update
from fedafd.domain.config import AveragingMode, stored_federation_config
from fedafd.domain.errors import (
    ConfigurationError,
    InvalidRequestError,
    PublicSetMismatchError,
    RepresentationError,
    RoundClosedError,
    UploadError,
)
from fedafd.domain.kinds import ClientKind, ParticipantKind, StageKind, UploadPurpose
from fedafd.domain.leaving import CLIENT_METRICS
from fedafd.domain.states import ParticipationState
from fedafd.learning.model_sums import SUMS
from fedafd.persistence.artifact_repository import add_artifact
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.model_repository import add_files, has_personalized
from fedafd.persistence.models import ClientRow, ParticipationRow, PersonalizedModelRow, RoundRow, UploadRow
from fedafd.persistence.participation_repository import find_participation, settle_participation
from fedafd.persistence.stage_repository import add_stage, fold_anew, stage_outputs
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.storage.store import copy_of, sha256_of
from fedafd.telemetry.logging import get_logger

__all__ = ["commit_delivery"]

_log = get_logger(__name__)
_MODEL_FILES = (".safetensors", ".json", ".txt", ".md")
_MOST_SAMPLES = 2**31 - 1
_READ_IN_PIECES = (UploadPurpose.REPRESENTATIONS, UploadPurpose.MERGED_STATES)


@dataclass(frozen=True)
class _Delivery:
    content: Assembled
    """Representations, or a region's merged states."""
    model_files: dict[str, dict[str, Any]]
    weights: Assembled | None
    clients: ClientCounts | None = None
    """Of a region: whom it stands for."""


async def commit_delivery(
    context: Context, client: ClientRow, request: pb.CommitUploadRequest
) -> pb.CommitUploadResponse:
    """Settle the client's participation as delivered or rejected. Repeating it gives the same receipt.

    Raises RoundClosedError when the round does not wait for it, UploadError when chunks are still missing, and
    TooManyRequestsError when other deliveries fill the memory that there is for them.
    """
    async with context.commits.of(client.id):
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


async def _commit(context: Context, client: ClientRow, request: pb.CommitUploadRequest) -> pb.CommitUploadResponse:
    participation, row = await open_participation(context, client, request.round_id)
    uploads = await announced(context, client, row, list(dict.fromkeys(request.upload_ids)))
    async with context.in_memory.room_for(sum(_room(upload) for upload in uploads)):
        with tempfile.TemporaryDirectory() as scratch:
            blobs = [await assemble(context, client, row, upload, Path(scratch)) for upload in uploads]
            await _settle(context, client, row, participation, blobs, request)
    for upload in uploads:
        context.metrics.uploads.labels(purpose=upload.purpose).inc()
        await ArrivingBlob(context.store, row, upload).discard()
    context.wakeups.changed(row.federation_id, clients=(client.id,))
    settled = await _settled(context, client, request.round_id)
    if settled is None:
        raise RoundClosedError(f"round {row.number} closed while the delivery was checked")
    return settled


def _room(upload: UploadRow) -> int:
    """Bytes: the whole and its tensors; of what is read in pieces at most a copy, on a disk that may be memory."""
    return upload.size_bytes * (1 if upload.purpose in _READ_IN_PIECES else 2)


async def _settle(
    context: Context,
    client: ClientRow,
    row: RoundRow,
    participation: ParticipationRow,
    blobs: list[Assembled],
    request: pb.CommitUploadRequest,
) -> None:
    """Check what was uploaded, and accept it, or reject it and keep none of it."""
    receipt = _receipt(participation, blobs)
    try:
        delivery = await _checked(context, client, row, blobs)
    except (RepresentationError, PublicSetMismatchError, UploadError, ConfigurationError) as error:
        await _reject(context, client, row, participation, receipt, str(error))
        return
    kept = delivery.content
    await kept.blob.finish(kept.entry["key"])
    if delivery.weights is not None:
        # They are needed when the round asks nobody any more: stored twice.
        key = delivery.weights.entry["key"]
        await delivery.weights.blob.finish(key)
        await asyncio.to_thread(context.store.put_file, copy_of(key), delivery.weights.file)
    await _accept(context, client, row, participation, receipt, delivery, request)


def _check_numbers(request: pb.CommitUploadRequest) -> None:
    """Raise InvalidRequestError unless the metrics' values are finite, and the count is one."""
    if not all(math.isfinite(value) for value in _metrics_of(request).values()):
        raise InvalidRequestError("metrics must be finite numbers")
    if not 0 <= request.num_private_samples <= _MOST_SAMPLES:
        raise InvalidRequestError("num_private_samples must be 0, for not told, or a number of samples")


def _metrics_of(request: pb.CommitUploadRequest) -> dict[str, float]:
    """The metrics with names of ours. An agent that is newer than this aggregator may send others: they are left out,
    as no text of an agent is kept, and its delivery counts."""
    return {name: request.metrics[name] for name in sorted(CLIENT_METRICS & request.metrics.keys())}


async def _settled(context: Context, client: ClientRow, round_id: str) -> pb.CommitUploadResponse | None:
    async with context.database.snapshot() as session:
        row = await find_participation(session, round_id, client.id)
    if row is None or row.receipt is None or row.settled_at is None:
        return None
    at = Timestamp()
    at.FromDatetime(row.settled_at)
    return pb.CommitUploadResponse(
        receipt=row.receipt,
        accepted=row.state == ParticipationState.DELIVERED.value,
        rejection_reason=row.reason or "",
        settled_at=at,
    )


async def _checked(context: Context, client: ClientRow, row: RoundRow, blobs: list[Assembled]) -> _Delivery:
    if client.kind == ParticipantKind.REGION:
        content, clients = await check_region(context, client, row, blobs)
        return _Delivery(content, {}, None, clients)
    config = stored_federation_config(row.config)
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
        await asyncio.to_thread(check_weight_update, weights[0].file.read_bytes(), ClientKind(client.kind))
    files = await asyncio.to_thread(_store_model, context, client, row, models[0].file) if models else {}
    return _Delivery(reps[0], files, weights[0] if weights else None)


def _store_model(context: Context, client: ClientRow, row: RoundRow, bundle: Path) -> dict[str, dict[str, Any]]:
    files = unpack_folder(bundle.read_bytes())
    for path, content in files.items():
        _check_model_file(path, content)
    prefix = f"federations/{row.federation_id}/clients/{client.name}/models/{row.number}"
    entries = {}
    for path, content in files.items():
        context.store.put(f"{prefix}/{path}", content)
        entries[path] = {"sha256": sha256_of(content), "size_bytes": len(content), "key": f"{prefix}/{path}"}
    return entries


def _check_model_file(path: str, content: bytes) -> None:
    if not path.endswith(_MODEL_FILES) and path != SUMS:
        raise UploadError(f"personalized model: a file is not one of {', '.join(_MODEL_FILES)}")
    try:
        if path.endswith(".json"):
            json.loads(content)
        elif path.endswith(".safetensors"):
            deserialize(content)
    except (ValueError, RecursionError, SafetensorError) as error:
        raise UploadError(f"personalized model: a {path.rpartition('.')[2]} file is not readable") from error


async def _reject(
    context: Context, client: ClientRow, row: RoundRow, participation: ParticipationRow, receipt: str, reason: str
) -> None:
    async with context.database.transaction() as session:
        values = {"reason": reason, "receipt": receipt}
        if await settle_participation(session, participation.id, ParticipationState.REJECTED, **values):
            _record(session, "participation.rejected", client, row, reason=reason)
            context.metrics.deliveries.labels(outcome="rejected").inc()


async def _accept(
    context: Context,
    client: ClientRow,
    row: RoundRow,
    participation: ParticipationRow,
    receipt: str,
    delivery: _Delivery,
    request: pb.CommitUploadRequest,
) -> None:
    metrics = _metrics_of(request)
    if len(metrics) < len(request.metrics):
        _log.info("delivery.metrics_left_out", count=len(request.metrics) - len(metrics))
    entry = delivery.content.entry
    up, down = context.progress.take_bytes(participation.id)
    async with context.database.transaction() as session:
        counted = await settle_participation(
            session,
            participation.id,
            ParticipationState.DELIVERED,
            receipt=receipt,
            progress=1.0,
            bytes_up=ParticipationRow.bytes_up + up,
            bytes_down=ParticipationRow.bytes_down + down,
            metrics=metrics,
            num_private_samples=request.num_private_samples or None,
            representations_sha256=entry["sha256"],
            region_clients=None if delivery.clients is None else as_stored(delivery.clients),
        )
        if not counted:
            return
        await add_artifact(session, row.federation_id, entry, round_id=row.id, client_id=client.id)
        if delivery.weights is not None:
            sent = delivery.weights.entry
            await add_artifact(session, row.federation_id, sent, round_id=row.id, client_id=client.id)
        await _add_folds(session, client, row, participation, delivery)
        if delivery.model_files and not await has_personalized(session, client, row.number):
            made = PersonalizedModelRow(client_id=client.id, version=row.number, round_id=row.id, metrics=metrics)
            session.add(made)
            await session.flush()
            await add_files(session, made, delivery.model_files)
        told = {} if delivery.clients is None else {"num_clients": delivery.clients.total}
        _record(
            session, "participation.delivered", client, row, sha256=entry["sha256"], bytes=entry["size_bytes"], **told
        )
    context.metrics.deliveries.labels(outcome="delivered").inc()


async def _add_folds(
    session: AsyncSession, client: ClientRow, row: RoundRow, participation: ParticipationRow, delivery: _Delivery
) -> None:
    inputs = {delivery.content.purpose.value: delivery.content.entry}
    if delivery.clients is None:
        prepared = await stage_outputs(session, row.id, StageKind.PREPARE) or {}
        inputs["global-representations"] = prepared["representations"]
        held = ClientKind(client.kind).modalities
    else:
        held = tuple(delivery.clients.by_modality)
    place = participation.position
    for modality in held:
        if await add_stage(session, row.id, StageKind.FOLD, inputs, modality=modality, position=place) is None:
            await fold_anew(session, row.id, inputs, modality=modality, position=place)


def _record(session: AsyncSession, kind: str, client: ClientRow, row: RoundRow, **data: Any) -> None:
    actor = f"client:{client.name}"
    record_event(session, kind, federation_id=row.federation_id, actor=actor, round=row.number, **data)


def _receipt(participation: ParticipationRow, blobs: list[Assembled]) -> str:
    """Of this part in the round and of the content that was delivered for it."""
    content = sorted((blob.purpose.value, blob.entry["sha256"]) for blob in blobs)
    return hashlib.sha256(json.dumps(["receipt", participation.id, *content]).encode()).hexdigest()
