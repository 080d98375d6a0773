"""A shared model comes in parts: what is the federation's or the client's own is taken from there, and nothing else."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import update
from tests.aggregator.test_bad_uploads import opened
from tests.aggregator.test_direct_uploads import settings_of
from tests.aggregator.world import World
from tests.servers import Minio

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.delivery import Delivery
from fedafd.agent.ledger import Ledger, SentEntry, read_sent
from fedafd.agent.session import AgentSession
from fedafd.agent.state import StateDirectory
from fedafd.aggregator.forgetting import forget_next
from fedafd.aggregator.server import make_server
from fedafd.aggregator.sweeping import sweep_next
from fedafd.artifacts.folders import pack_folder
from fedafd.domain.config import SharingConfig
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, ParticipantKind, StageKind, UploadPurpose
from fedafd.domain.states import RoundState
from fedafd.persistence.client_repository import get_client, invite_client
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.forgetting_repository import ask_to_forget
from fedafd.persistence.model_repository import get_personalized, list_files
from fedafd.persistence.models import PersonalizedModelRow, RoundRow, utc_now
from fedafd.persistence.participation_repository import list_participations
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.storage import open_store
from fedafd.storage.s3 import S3Store

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FROZEN_BYTES, TRAINED_BYTES = 20 * 40_000, 8_000
DESCRIBED_BYTES = 25_000
"""Headers, small files and the tar around them."""
Caller = tuple[tuple[str, str], ...]


def encoder(seed: int, frozen: int) -> bytes:
    layers = np.random.default_rng(frozen).standard_normal((20, 100, 100)).astype(np.float32)
    projection = np.random.default_rng(seed).standard_normal((20, 100)).astype(np.float32)
    return save({f"layer.{n}": layer for n, layer in enumerate(layers)} | {"projection": projection})


def bundle(number: int) -> bytes:
    return pack_folder({"config.json": b"{}", "model.safetensors": encoder(number, frozen=0)})


def model(number: int, frozen: int = 7) -> dict[str, bytes]:
    """A site's own encoders have other frozen weights than the federation's."""
    return {
        "README.md": b"of round %d" % number,
        "alone/image/model.safetensors": encoder(number + 100, frozen),
        "global/image/model.safetensors": encoder(number, frozen=0),
        "local/image/model.safetensors": encoder(number + 200, frozen),
    }


@dataclass
class Site:
    """What an agent has, but for its training."""

    name: str
    folder: Path
    connection: AggregatorConnection
    state: StateDirectory
    cache: ArtifactCache

    async def deliver(self, world: World, round_id: str, number: int, files: Mapping[str, bytes]) -> bool:
        """Deliver a round's result as the agent does, by what the task says that the aggregator takes."""
        task = (await self.connection.fetch_task(0, 0.0)).train
        (named,) = task.encoder_bundles
        await self.connection.download(named, self.cache)
        pending = self.state.save_pending(
            round_id=round_id,
            round_number=number,
            task_key="key",
            metrics={},
            num_private_samples=3,
            state=b"state",
            blobs={
                UploadPurpose.REPRESENTATIONS: world.reps(),
                UploadPurpose.PERSONALIZED_MODEL: pack_folder(files),
            },
            model_source={"bundles": {"image": named.sha256}},
        )
        delivery = Delivery(self.state, Ledger(self.state.root), SharingConfig(personalized_model=True), self.cache)
        return await delivery.deliver(self.connection, pending, in_parts=task.takes_model_in_parts)

    def sent_models(self) -> list[SentEntry]:
        return [entry for entry in read_sent(self.state.root) if entry.what == "personalized-model"]


@dataclass
class Scene:
    world: World
    address: str
    folder: Path

    async def site(self, name: str) -> Site:
        async with self.world.context.database.transaction() as session:
            _, token = await invite_client(session, "trial", name, ParticipantKind.IMAGE, timedelta(hours=1))
        first = AggregatorConnection(self.address, stop=asyncio.Event())
        credential = await first.enrol(token, ParticipantKind.IMAGE, uuid.uuid4().bytes)
        await first.close()
        folder = self.folder / name
        state = StateDirectory(folder)
        connection = AggregatorConnection(
            self.address, stop=asyncio.Event(), credential=credential, session=AgentSession(folder)
        )
        return Site(name, folder, connection, state, ArtifactCache(folder / "artifacts", limit_bytes=1 << 30))

    async def open_round(self, number: int, **config: object) -> str:
        round_id = await self.world.start_round(**config)
        outputs: dict[str, Any] = {"server_state": b"state", "representations": b"reps"}
        outputs |= {"encoder_bundle__text": b"text", "encoder_bundle__image": bundle(number)}
        await self.world.distil(StageKind.PREPARE, **outputs)
        return round_id

    async def round(self, site: Site, number: int, files: Mapping[str, bytes]) -> int:
        """One round to its end; bytes that came up in it."""
        round_id = await self.open_round(number)
        assert await site.deliver(self.world, round_id, number, files)
        async with self.world.context.database.snapshot() as session:
            ((part, _),) = await list_participations(session, round_id)
        await self.world.coordinate()
        await self.world.distil(StageKind.FOLD, sed_state=b"sed")
        await self.world.distil(StageKind.DISTIL, server_state=b"distilled")
        await self.world.distil(StageKind.EVALUATE, server_state=b"distilled", model__config=b"{}")
        assert (await self.world.round(round_id)).state == RoundState.COMPLETED.value
        return part.bytes_up

    async def stored(self, client: str, version: int) -> dict[str, bytes]:
        """The model as whoever may read it gets it, its hashes and lengths checked."""
        async with self.world.context.database.snapshot() as session:
            row = await get_personalized(session, await get_client(session, "trial", client), version)
            files = await list_files(session, row)
        found = {file.path: self.world.context.store.get(file.key) for file in files}
        assert all((sha256_of(found[f.path]), len(found[f.path])) == (f.sha256, f.size_bytes) for f in files)
        return found


@pytest.fixture
async def scene(world: World, tmp_path: Path) -> AsyncIterator[Scene]:
    server, _ = make_server(world.context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Scene(world, f"127.0.0.1:{port}", tmp_path / "sites")
    await server.stop(None)


# -- what a site of ours sends ---------------------------------------------------------------------------------------


async def test_a_model_brings_its_frozen_weights_once_and_then_no_more(scene: Scene) -> None:
    north = await scene.site("north")
    reps = len(scene.world.reps())
    sent = [await scene.round(north, number, model(number)) - reps for number in (1, 2, 3)]
    assert FROZEN_BYTES < sent[0] < FROZEN_BYTES + 2 * TRAINED_BYTES + DESCRIBED_BYTES
    assert max(sent[1:]) < 2 * TRAINED_BYTES + DESCRIBED_BYTES
    for number in (1, 2, 3):
        assert await scene.stored("north", number) == model(number)
    ledger = north.sent_models()
    assert [entry.bytes for entry in ledger] == sent
    assert f"of a model of {len(pack_folder(model(1))):,} bytes" in ledger[0].detail
    assert sha256_of(bundle(1))[:16] in ledger[0].detail
    assert "the model of round 1" in ledger[1].detail
    await north.connection.close()


async def test_parts_are_taken_from_a_bucket_too(scene: Scene, minio: Minio) -> None:
    bucket = open_store(settings_of(minio, f"b{uuid.uuid4().hex}"))
    assert isinstance(bucket, S3Store)
    bucket.make_bucket()
    for found in scene.world.context.store.list(""):
        bucket.put(found.key, scene.world.context.store.get(found.key))
    scene.world.use_store(bucket)
    north = await scene.site("north")
    sent = [await scene.round(north, number, model(number)) for number in (1, 2)]
    assert sent[1] < 2 * TRAINED_BYTES + DESCRIBED_BYTES < sent[0]
    assert [await scene.stored("north", number) for number in (1, 2)] == [model(1), model(2)]
    for whose in ("local", "alone"):
        bucket.delete(f"federations/trial/clients/north/models/2/{whose}/image/model.safetensors")
    assert await scene.round(north, 3, model(3)) > len(pack_folder(model(3)))
    await north.connection.close()


async def test_what_retention_keeps_needs_nothing_that_it_lets_go(scene: Scene) -> None:
    north = await scene.site("north")
    async with scene.world.context.database.transaction() as session:
        federation = await get_federation(session, "trial")
        federation.config = federation.config | {"retention": {"keep_models": 1, "keep_rounds": 1}}
    for number in (1, 2, 3):
        sent = await scene.round(north, number, model(number))
        while await sweep_next(scene.world.context.database, scene.world.context.store):
            pass
    assert sent < 2 * TRAINED_BYTES + DESCRIBED_BYTES
    assert await scene.stored("north", 3) == model(3)
    assert await scene.stored("north", 1) == {}
    await north.connection.close()


@pytest.mark.parametrize("how", ["forgotten", "removed from the store", "damaged in the store", "shared before"])
async def test_where_the_model_before_is_gone_the_next_one_comes_whole(scene: Scene, how: str) -> None:
    north = await scene.site("north")
    await scene.round(north, 1, model(1))
    context = scene.world.context
    key = "federations/trial/clients/north/models/1/local/image/model.safetensors"
    if how == "forgotten":
        async with context.database.transaction() as session:
            ask_to_forget(session, await get_client(session, "trial", "north"), "api-key:admin")
        assert await forget_next(context.database, context.store)
        assert context.store.stat(key) is None
    elif how == "removed from the store":
        context.store.delete(key)
        context.store.delete(key.replace("local", "alone"))
    elif how == "damaged in the store":
        for damaged in (key, key.replace("local", "alone")):
            context.store.put(damaged, bytes(len(context.store.get(damaged))))
    else:
        async with context.database.transaction() as session:
            before = utc_now() - timedelta(days=1)
            await session.execute(update(PersonalizedModelRow).values(created_at=before))
    sent = await scene.round(north, 2, model(2))
    assert sent > len(pack_folder(model(2)))
    assert await scene.stored("north", 2) == model(2)
    # What is in the record of the site is all that left.
    assert [bool(entry.detail) for entry in north.sent_models()] == [True, True, False]
    await north.connection.close()


async def test_forgetting_a_client_takes_nothing_of_another(scene: Scene) -> None:
    """Both have the same weights."""
    north, south = await scene.site("north"), await scene.site("south")
    round_id = await scene.open_round(1)
    for site in (north, south):
        assert await site.deliver(scene.world, round_id, 1, model(1))
    context = scene.world.context
    async with context.database.transaction() as session:
        (await session.get_one(RoundRow, round_id)).state = RoundState.COMPLETED.value
        ask_to_forget(session, await get_client(session, "trial", "north"), "api-key:admin")
    assert await forget_next(context.database, context.store)
    assert not [found.key for found in context.store.list("federations/trial/clients/north/")]
    assert await scene.stored("south", 1) == model(1)
    for site in (north, south):
        await site.connection.close()


async def test_an_agent_of_before_sends_the_whole_and_it_is_taken(world: World) -> None:
    round_id, (site,) = await opened(world, ClientKind.IMAGE)
    uploads = [await world.upload(site, round_id, world.reps())]
    uploads.append(await world.upload(site, round_id, pack_folder(model(1)), "personalized-model"))
    receipt = await world.agents.CommitUpload(
        pb.CommitUploadRequest(round_id=round_id, upload_ids=uploads), metadata=site
    )
    assert receipt.accepted, receipt.rejection_reason


@pytest.mark.parametrize("takes", [True, False])
async def test_a_federation_that_takes_no_models_takes_no_parts(world: World, takes: bool) -> None:
    _, (site,) = await opened(world, ClientKind.IMAGE, accept_personalized_models=takes)
    task = (await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=site)).train
    assert task.takes_model_in_parts is takes
