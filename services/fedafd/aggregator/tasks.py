"""The desired state of a client, derived from rows alone, and what it may download for it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.aggregator.callers import Caller
from fedafd.aggregator.context import Context
from fedafd.aggregator.round_facts import RoundTask
from fedafd.artifacts import keys
from fedafd.artifacts.manifest import Manifest, read_manifest
from fedafd.artifacts.ref import ArtifactRef
from fedafd.artifacts.stage_io import (
    BUNDLE,
    PUBLIC_SET,
    PUBLIC_SET_MANIFEST,
    PUBLIC_SET_SHARD,
    WEIGHTS,
    SharedOutputs,
    is_global_representations,
)
from fedafd.domain.config import AveragingMode
from fedafd.domain.kinds import ParticipantKind, StageKind
from fedafd.domain.seeds import derive_seed
from fedafd.persistence.caller_repository import CallingClient, WaitingPart
from fedafd.persistence.model_repository import find_version
from fedafd.persistence.models import RoundRow
from fedafd.persistence.participation_repository import current_participation
from fedafd.persistence.round_repository import config_of_round
from fedafd.persistence.stage_repository import stage_outputs
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.storage.store import get_verified

__all__ = ["desired_task", "find_artifact", "public_set_manifest"]

_manifests: dict[str, Manifest] = {}


async def public_set_manifest(context: Context, sha256: str) -> Manifest:
    """A public set's manifest; immutable, so it is read once per process."""
    if sha256 not in _manifests:
        content = await asyncio.to_thread(get_verified, context.store, keys.public_set_manifest(sha256), sha256)
        _manifests[sha256] = read_manifest(content)
    return _manifests[sha256]


async def desired_task(context: Context, caller: Caller) -> pb.FetchTaskResponse:
    """What the client should be doing now, as of the moment when the caller was looked up."""
    response, client = pb.FetchTaskResponse(), caller.client
    if client.other_agent_refused_at is not None:
        response.other_agent_refused_at.FromDatetime(client.other_agent_refused_at)
    if caller.part is None:
        response.idle.reason = "no round is waiting for this client"
    else:
        row = await context.rounds.row(context.database, caller.part.round_id)
        task, _ = await _round_task(context, row, ParticipantKind(client.kind))
        response.train.CopyFrom(task)
        seed = config_of_round(row).seed
        response.train.seed = derive_seed(seed, row.number, client.name, "train")
    return _answer(response)


async def find_artifact(
    context: Context, client: CallingClient, sha256: str
) -> tuple[types_pb2.Artifact, WaitingPart] | None:
    """The artifact of that hash with its key, if the client's current task names it; and the part it is for."""
    remembered = context.callers.of(client.id)
    if remembered is not None and remembered.part is not None:
        named = await _named(context, client, remembered.part, sha256)
        if named is not None:
            return named, remembered.part
    async with context.database.snapshot() as session:
        current = await current_participation(session, client.id)
    if current is None:
        return None
    part = WaitingPart.of(current[0])
    named = await _named(context, client, part, sha256)
    return None if named is None else (named, part)


async def _named(context: Context, client: CallingClient, part: WaitingPart, sha256: str) -> types_pb2.Artifact | None:
    row = await context.rounds.row(context.database, part.round_id)
    _, artifacts = await _round_task(context, row, ParticipantKind(client.kind))
    return next((artifact for artifact in artifacts if artifact.sha256 == sha256), None)


async def _round_task(context: Context, row: RoundRow, kind: ParticipantKind) -> RoundTask:
    """The round's task for clients of a kind, made once for all of them, and its artifacts with their keys."""

    async def make() -> RoundTask:
        async with context.database.snapshot() as session:
            artifacts = await _artifacts(context, session, row, kind)
        return _train_task(row, kind, [_without_key(artifact) for artifact in artifacts]), artifacts

    return await context.rounds.task(row.id, kind, make)


def _without_key(artifact: types_pb2.Artifact) -> types_pb2.Artifact:
    public = types_pb2.Artifact()
    public.CopyFrom(artifact)
    public.key = ""
    return public


def _train_task(row: RoundRow, kind: ParticipantKind, artifacts: list[types_pb2.Artifact]) -> pb.TrainTask:
    config = config_of_round(row)
    task = pb.TrainTask(
        round_id=row.id,
        round_number=row.number,
        federation_config_json=config.regions_json() if kind is ParticipantKind.REGION else config.sites_json(),
        public_set_sha256=row.public_set_sha256,
        public_set=[artifact for artifact in artifacts if artifact.purpose.startswith(PUBLIC_SET)],
        global_representations=next(a for a in artifacts if is_global_representations(a.purpose)),
        encoder_bundles=[a for a in artifacts if a.purpose.startswith(BUNDLE)],
        averaged_weights=[a for a in artifacts if a.purpose.startswith(WEIGHTS)],
        accepts_personalized_model=config.accept_personalized_models,
        takes_model_in_parts=config.accept_personalized_models,
        traceparent=row.traceparent or "",
    )
    if row.deadline_at is not None:
        task.deadline.FromDatetime(row.deadline_at)
    return task


async def _artifacts(
    context: Context, session: AsyncSession, row: RoundRow, kind: ParticipantKind
) -> list[types_pb2.Artifact]:
    prepared = await stage_outputs(session, row.id, StageKind.PREPARE) or {}
    manifest = await public_set_manifest(context, row.public_set_sha256)
    averaging = config_of_round(row).averaging is not AveragingMode.OFF  # it may have been turned off since the base
    averages = await _averages(session, row, kind) if averaging else []
    return [*_public_set(row.public_set_sha256, manifest), *_prepared(prepared, kind), *averages]


async def _averages(session: AsyncSession, row: RoundRow, kind: ParticipantKind) -> list[types_pb2.Artifact]:
    """Averaged weights of the groups of that kind, made by the round that made this round's base version."""
    base = await find_version(session, row.federation_id, row.base_version)
    if base is None:
        return []
    outputs = await stage_outputs(session, base.round_id, StageKind.DISTIL) or {}
    names = sorted(name for name in outputs if name.startswith(f"{WEIGHTS}{kind.value}-"))
    return [_artifact(name, outputs[name]) for name in names]


def _public_set(sha256: str, manifest: Manifest) -> Iterator[types_pb2.Artifact]:
    size = len(manifest.to_bytes())
    key = keys.public_set_manifest(sha256)
    yield types_pb2.Artifact(sha256=sha256, size_bytes=size, purpose=PUBLIC_SET_MANIFEST, key=key)
    for shard in manifest.shards:
        if shard.split == "train":
            yield types_pb2.Artifact(
                sha256=shard.sha256,
                size_bytes=shard.size_bytes,
                purpose=PUBLIC_SET_SHARD,
                key=keys.public_set_shard(sha256, shard.name),
            )


def _prepared(outputs: Mapping[str, ArtifactRef], kind: ParticipantKind) -> Iterator[types_pb2.Artifact]:
    for name, entry in SharedOutputs.of(outputs).for_sites(kind.modalities).items():
        yield _artifact(name, entry)


def _artifact(name: str, entry: ArtifactRef) -> types_pb2.Artifact:
    return types_pb2.Artifact(sha256=entry["sha256"], size_bytes=entry["size_bytes"], purpose=name, key=entry["key"])


def _answer(response: pb.FetchTaskResponse) -> pb.FetchTaskResponse:
    # The revision is a hash of the task itself: equal tasks have equal revisions on every replica and after a restart.
    digest = hashlib.sha256(response.SerializeToString(deterministic=True)).digest()
    response.revision = int.from_bytes(digest[:8], "big") | 1
    return response
