"""The region's own federation: its database and its store. What is above stands for one round of it at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedafd.agent.sound_task import moment_of
from fedafd.aggregator.collecting import merge_plan
from fedafd.artifacts.keys import RoundObjects, public_set_manifest, public_set_shard
from fedafd.artifacts.manifest import Manifest, read_manifest
from fedafd.artifacts.merged_states import encode_merged_states
from fedafd.artifacts.ref import ArtifactRef
from fedafd.artifacts.stage_io import SharedOutputs
from fedafd.domain.blame import blaming
from fedafd.domain.config import FederationConfig, stored_federation_config
from fedafd.domain.config.region import config_of_region
from fedafd.domain.config.regions import check_regions
from fedafd.domain.errors import ConfigurationError, ConflictError, NotFoundError, PublicSetError, RoundClosedError
from fedafd.domain.kinds import Modality, StageKind
from fedafd.domain.states import OPEN_ROUND_STATES, ParticipationState, RoundState
from fedafd.persistence.database import Database
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.following_repository import (
    ACTOR,
    add_following_round,
    end_round,
    following_round,
    note_receipt,
    open_following_rounds,
)
from fedafd.persistence.look_repository import ClientLook, PartLook, look_at_parts, look_at_stages
from fedafd.persistence.models import FederationRow, RoundRow
from fedafd.persistence.participation_repository import clients_in, clients_with, list_participations
from fedafd.persistence.round_repository import get_round
from fedafd.persistence.stage_repository import list_stages, stage_outputs
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.region.whole_task import need_whole_set
from fedafd.storage import ObjectStore
from fedafd.storage.store import get_verified

__all__ = ["OwnFederation", "Standing"]


@dataclass(frozen=True)
class Standing:
    """How far a round is: its row, the done share, who delivered of how many, and a mark that moves with any step."""

    row: RoundRow
    fraction: float
    delivered: int
    invited: int
    mark: tuple[object, ...]

    @property
    def state(self) -> RoundState:
        """Where the round is."""
        return RoundState(self.row.state)


class OwnFederation:
    """One federation, by name, in a database and a store."""

    def __init__(self, database: Database, store: ObjectStore, name: str) -> None:
        self._database, self._store, self.name = database, store, name

    async def follow(self, upper: str) -> None:
        """From now on rounds come from the upper federation alone.

        Raises ConfigurationError for a federation that does not exist, follows another one, or trained by itself.
        """
        async with self._database.transaction() as session:
            try:
                row = await get_federation(session, self.name, lock=True)
            except NotFoundError:
                raise ConfigurationError(
                    f"region.yaml: federation {self.name} does not exist; create it with `fedafd federation create`"
                ) from None
            if row.current_version is not None or row.follows not in (None, upper):
                done = f"is a region of {row.follows}" if row.follows else "has trained a global model itself"
                raise ConfigurationError(f"region.yaml: federation {self.name} {done}; create another for this region")
            if row.follows is None:
                row.follows = upper
                record_event(session, "federation.follows", federation_id=row.id, actor=ACTOR, upper=upper)

    async def find(self, upstream_round_id: str) -> RoundRow | None:
        """The part of an upper round that has begun, or None."""
        async with self._database.snapshot() as session:
            return await following_round(session, self.name, upstream_round_id)

    async def unfinished(self) -> list[RoundRow]:
        """Parts of upper rounds that are not over."""
        async with self._database.snapshot() as session:
            return list(await open_following_rounds(session, self.name))

    async def begin(
        self, task: pb.TrainTask, config: FederationConfig, files: Mapping[str, Path], *, deadline_share: float
    ) -> RoundRow:
        """Queue the part of an upper round; `files`: what the task names, by hash. Harmless if it has begun.

        `task` has all that a round begins with (`need_whole`). Raises ConfigurationError where merged states do not
        suffice, ConflictError, DataError and InvalidRequestError for a public set that is not whole.
        """
        check_regions(config)
        entries = _prepared(self.name, task)
        manifest = await asyncio.to_thread(self._store_all, task, entries, files)
        async with self._database.transaction() as session:
            owner = await get_federation(session, self.name, lock=True)
            begun = await following_round(session, self.name, task.round_id)
            if begun is not None:
                return begun
            _adopt_public_set(owner, manifest)
            own = config_of_region(config, stored_federation_config(owner.config), _seconds(task, deadline_share))
            return await add_following_round(
                session,
                owner,
                number=task.round_number,
                upstream_round_id=task.round_id,
                config=own.model_dump(mode="json"),
                public_set_sha256=task.public_set_sha256,
                prepared=entries,
            )

    async def mend(self, task: pb.TrainTask, files: Mapping[str, Path]) -> None:
        """Put what the store has lost of the upper round's artifacts there again."""
        await asyncio.to_thread(self._store_all, task, _prepared(self.name, task), files)

    async def standing(self, round_id: str) -> Standing:
        """How far a round is."""
        async with self._database.snapshot() as session:
            row = await get_round(session, round_id)
            parts = [part for part, _ in await list_participations(session, round_id)]
            stages = await list_stages(session, round_id)
        delivered = sum(part.state == ParticipationState.DELIVERED.value for part in parts)
        fraction = sum(part.progress for part in parts) / len(parts) if parts else 0.0
        moved = (*((p.state, p.last_progress_at) for p in parts), *((s.state, s.alive_at) for s in stages))
        return Standing(row, fraction, delivered, len(parts), (row.state, *moved))

    async def merged(self, row: RoundRow) -> bytes:
        """What the region delivers for a round whose states are merged. Raises RoundClosedError for another round."""
        async with self._database.snapshot() as session:
            cohort = await look_at_parts(session, row.id)
            stages = await look_at_stages(session, row.id)
            prepared = await stage_outputs(session, row.id, StageKind.PREPARE) or {}
        plans = {modality: merge_plan(cohort, stages, modality) for modality in Modality}
        roots = {modality: plan.root for modality, plan in plans.items() if plan.root is not None}
        if not roots or not all(plan.settled for plan in plans.values()):
            raise RoundClosedError(f"round {row.number} of federation {self.name} has not merged its states")
        counted = [(part, client) for part, client in cohort if any(_counts_in(part, client, m) for m in roots)]
        if not all(any(_counts_in(part, client, m) for part, client in counted) for m in roots):
            raise ConflictError(f"round {row.number} of federation {self.name}: a state stands for no client")
        states = {m: await asyncio.to_thread(self._read, entry) for m, entry in roots.items()}
        return encode_merged_states(
            states,
            total=sum(clients_in(part, client) for part, client in counted),
            public_set_sha256=row.public_set_sha256,
            global_sha256=SharedOutputs.of(prepared).global_representations["sha256"],
        )

    async def delivered(self, row: RoundRow, receipt: str) -> None:
        """Note that the upper federation has taken the states."""
        async with self._database.transaction() as session:
            await note_receipt(session, row, receipt)

    async def end(self, round_id: str, state: RoundState, reason: str) -> None:
        """Fail or cancel a round, unless it is over."""
        async with self._database.transaction() as session:
            row = await get_round(session, round_id)
            if RoundState(row.state) in OPEN_ROUND_STATES:
                await end_round(session, row, state, reason)

    def _read(self, entry: ArtifactRef) -> bytes:
        return get_verified(self._store, entry["key"], entry["sha256"])

    def _store_all(self, task: pb.TrainTask, entries: Mapping[str, ArtifactRef], files: Mapping[str, Path]) -> Manifest:
        name = task.public_set_sha256
        with blaming(PublicSetError):
            manifest = read_manifest(files[name].read_bytes())
        need_whole_set(task, manifest)
        for shard in manifest.shards:
            if shard.sha256 in files:
                self._put_missing(public_set_shard(name, shard.name), files[shard.sha256])
        self._put_missing(public_set_manifest(name), files[task.public_set_sha256])
        for entry in entries.values():
            self._put_missing(entry["key"], files[entry["sha256"]])
        return manifest

    def _put_missing(self, key: str, file: Path) -> None:
        if self._store.stat(key) is None:
            self._store.put_file(key, file)


def _counts_in(part: PartLook, client: ClientLook, modality: Modality) -> bool:
    """Whether a merged state holds anything of the client: it delivered the modality, and was not left out of it."""
    if part.state != ParticipationState.DELIVERED.value or not clients_with(part, client, modality):
        return False
    contribution = (part.contributions or {}).get(modality.value)
    return contribution is None or not contribution["left_out"]


def _prepared(federation: str, task: pb.TrainTask) -> dict[str, ArtifactRef]:
    """Entries of the upper round's preparing stage, with this federation's keys."""
    objects = RoundObjects(federation, task.round_number)
    return {
        blob.purpose: {
            "sha256": blob.sha256,
            "size_bytes": blob.size_bytes,
            "purpose": blob.purpose,
            "key": objects.artifact(blob.purpose, blob.sha256),
        }
        for blob in (task.global_representations, *task.encoder_bundles)
    }


def _adopt_public_set(owner: FederationRow, manifest: Manifest) -> None:
    if owner.public_set_sha256 != manifest.sha256:
        owner.public_set_sha256 = manifest.sha256
        owner.public_set_summary = {split: manifest.num_samples(split) for split in ("train", "val", "test")}


def _seconds(task: pb.TrainTask, share: float) -> float | None:
    """How long the region waits for its sites; None: for ever."""
    until = moment_of(task.deadline) if task.HasField("deadline") else None
    return None if until is None else max(1.0, share * (until - datetime.now(UTC)).total_seconds())
