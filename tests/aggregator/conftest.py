"""The aggregator's world, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest
from tests.aggregator.world import DIM, TOKEN, World
from tests.databases import migrated

from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.outbox import Outbox
from fedafd.aggregator.server import make_server
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import StageKind
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.authority import new_authority
from fedafd.storage.folder import FolderStore

if TYPE_CHECKING:
    from fedafd.distiller.tasks import StageRunner


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    await asyncio.to_thread(migrated, database_url)
    database = Database(database_url)
    store = FolderStore(tmp_path / "store")
    manifest = write_public_set(
        load_public_data("shapes", None, {"num_train": 6, "num_val": 1, "num_test": 1}), tmp_path
    )
    store.put(f"public-sets/{manifest.sha256}/manifest.json", manifest.to_bytes())
    for shard in manifest.shards:
        store.put_file(f"public-sets/{manifest.sha256}/{shard.name}", tmp_path / shard.name)
    seen: list[tuple[str, str, str]] = []
    context = Context(
        database,
        store,
        TOKEN,
        stage_lease=timedelta(seconds=1),
        seen=lambda *call: seen.append(call),
        authority=new_authority(),
    )
    config = FederationConfig(name="trial", embedding_dim=DIM).model_dump(mode="json")
    async with database.transaction() as session:
        row = await add_federation(session, "trial", config)
        row.public_set_sha256 = manifest.sha256
    server, _ = make_server(context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sent: list[tuple[StageKind, str]] = []
    coordinator = Coordinator(context, Outbox(database, lambda kind, stage: sent.append((kind, stage))))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stubs = AggregatorServiceStub(channel), DistillationServiceStub(channel)
        yield World(context, *stubs, coordinator, sent, manifest.sha256, seen)
    await server.stop(None)
    await context.progress.close()
    await context.renewals.close()
    await database.close()


@pytest.fixture
async def runner(world: World, tmp_path: Path) -> AsyncIterator[StageRunner]:
    """A distiller's own part, in a thread, on a listener of the same aggregator."""
    # Here, because it brings torch.
    from fedafd.distiller.client import DistillationClient
    from fedafd.distiller.metrics import DistillerMetrics
    from fedafd.distiller.public_sets import PublicSets
    from fedafd.distiller.shutdown import Shutdown
    from fedafd.distiller.tasks import StageRunner

    server, _ = make_server(world.context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    metrics = DistillerMetrics()
    sets = PublicSets(world.context.store, tmp_path / "cache", limit_bytes=10**8)
    client = DistillationClient(f"127.0.0.1:{port}", TOKEN)
    yield StageRunner(client, world.context.store, sets, "cpu", metrics, Shutdown(5, metrics), 1)
    await server.stop(None)
