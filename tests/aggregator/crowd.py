"""Rounds of real agents that train nothing, an aggregator and a scripted distiller in one process, all counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from benchmarks.light_sites import Blob, enrolled_sites
from sqlalchemy import event
from tests.aggregator.world import DIM, INTERNAL, TOKEN
from tests.databases import migrated

from fedafd.agent.metrics import AgentMetrics
from fedafd.agent.runner import Agent
from fedafd.agent.state import StateDirectory
from fedafd.agent.training import LocalResult, LocalTask, ProgressCallback
from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.outbox import Outbox
from fedafd.aggregator.round_watch import watch_rounds
from fedafd.aggregator.server import make_server
from fedafd.aggregator.types import Interceptor
from fedafd.aggregator.wakeups import Wakeups
from fedafd.artifacts.representations import encode_representations
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.config import FederationConfig, WireDtype, parse_agent_config
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import FOLDS_TOGETHER, Modality, ParticipantKind, StageKind
from fedafd.messaging.wakeups import WakeupPublisher, listen_for_wakeups
from fedafd.persistence.client_repository import invite_client
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation, get_federation
from fedafd.persistence.round_repository import add_rounds, get_round
from fedafd.proto.v1 import distillation_pb2 as distillation
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.codes import stage_kind_from_wire
from fedafd.storage import ObjectStore
from fedafd.storage.folder import FolderStore
from fedafd.storage.store import ObjectInfo

_NUM_PUBLIC = 6
_OUTPUTS = {
    StageKind.PREPARE: ("server-state", "representations", "encoder-bundle/image", "encoder-bundle/text"),
    StageKind.FOLD: ("sed-state", "sed-sheet"),
    StageKind.WEIGH: ("sed-limit",),
    StageKind.MERGE: ("sed-state",),
    StageKind.DISTIL: ("server-state",),
    StageKind.EVALUATE: ("server-state", "model/config"),
}
_METRICS = {StageKind.EVALUATE: {"rsum": 1.0}}


@dataclass
class Counts:
    """What a stretch of time cost: by name, how often."""

    statements: Counter[str] = field(default_factory=Counter)
    transactions: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    executions: Counter[str] = field(default_factory=Counter)
    """Of statements, one for all rows that it was repeated for."""
    messages: Counter[str] = field(default_factory=Counter)
    """To distillers."""

    seconds: float = 0.0
    """How long it took."""

    def copy(self) -> Counts:
        parts: dict[str, Any] = {name: Counter(part) for name, part in self._parts().items()}
        return Counts(**parts)

    def since(self, earlier: Counts) -> Counts:
        then = earlier._parts()
        parts: dict[str, Any] = {name: now - then[name] for name, now in self._parts().items()}
        return Counts(**parts)

    def totals(self) -> dict[str, int]:
        return {name: part.total() for name, part in self._parts().items()}

    def _parts(self) -> dict[str, Counter[str]]:
        return {name: part for name, part in vars(self).items() if isinstance(part, Counter)}


class CountingStore:
    """A store that counts what it is asked."""

    def __init__(self, store: ObjectStore, objects: Counter[str]) -> None:
        self._store = store
        self._objects = objects
        self.append_bytes = store.append_bytes

    def put(self, key: str, data: bytes) -> None:
        self._objects["put"] += 1
        self._store.put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self._objects["put"] += 1
        self._store.put_file(key, path)

    def get(self, key: str) -> bytes:
        self._objects["get"] += 1
        return self._store.get(key)

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        self._objects["get"] += 1
        return self._store.stream(key, offset, length)

    def stat(self, key: str) -> ObjectInfo | None:
        self._objects["stat"] += 1
        return self._store.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._objects["list"] += 1
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._objects["delete"] += 1
        self._store.delete(key)

    def ping(self) -> None:
        self._store.ping()

    def arrived(self, key: str) -> int:
        self._objects["stat"] += 1
        return self._store.arrived(key)

    def append(self, key: str, offset: int, data: bytes) -> None:
        self._objects["put"] += 1
        self._store.append(key, offset, data)

    def arrived_file(self, key: str, scratch: Path, /) -> Path:
        self._objects["get"] += 1
        return self._store.arrived_file(key, scratch)

    def finish(self, key: str, target: str) -> None:
        self._objects["finish"] += 1
        self._store.finish(key, target)

    def cut(self, key: str, size_bytes: int = 0) -> None:
        self._objects["delete"] += 1
        self._store.cut(key, size_bytes)


class _CallCounter(Interceptor):
    def __init__(self, calls: Counter[str]) -> None:
        self._calls = calls

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        self._calls[details.method.rpartition("/")[2]] += 1
        return await continuation(details)


class Nothing:
    """Training that takes no time: what comes out depends on nothing."""

    def __init__(self, representations: bytes) -> None:
        self._representations = representations

    def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
        return LocalResult(
            representations=self._representations,
            state=b"state",
            personalized_model=None,
            metrics={"federated/acc1": 50.0},
            num_private_samples=1,
        )


@dataclass
class Crowd:
    """The aggregator, its agents, and what was counted."""

    context: Context
    counts: Counts
    public_sha256: str
    address: str
    folder: Path
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    agents: list[asyncio.Future[None]] = field(default_factory=list)
    work: list[asyncio.Future[None]] = field(default_factory=list)
    """What the aggregator and the distiller do beside answering calls."""

    async def add_agents(self, count: int) -> None:
        """Invite clients and start their agents, each as its own site would."""
        rows = np.eye(_NUM_PUBLIC, DIM, dtype=np.float32)
        both = {Modality.IMAGE: rows, Modality.TEXT: rows}
        blob = encode_representations(both, self.public_sha256, WireDtype.FLOAT16)
        for number in range(count):
            name = f"site-{number:04d}"
            async with self.context.database.transaction() as session:
                _, token = await invite_client(session, "trial", name, ParticipantKind.PAIR, timedelta(hours=1))
            values = {"aggregator": self.address, "kind": "pair", "data": {"adapter": "shapes"}}
            values["state_dir"] = str(self.folder / name)
            agent = Agent(
                parse_agent_config(values),
                Nothing(blob),
                StateDirectory(self.folder / name),
                stop=self.stop,
                metrics=AgentMetrics(),
                cache_limit_bytes=1 << 30,
                poll_seconds=60.0,
            )
            self.agents.append(asyncio.ensure_future(agent.run(token)))
        while self.counts.calls["FetchTask"] < 2 * count:
            self._check()
            await asyncio.sleep(0.02)

    async def add_light_sites(self, count: int, stack: AsyncExitStack) -> None:
        """Invite clients that do nothing but calls, many of them on a connection."""
        rows = np.eye(_NUM_PUBLIC, DIM, dtype=np.float32)
        both = {Modality.IMAGE: rows, Modality.TEXT: rows}
        blob = Blob.of(encode_representations(both, self.public_sha256, WireDtype.FLOAT16))
        tokens = []
        async with self.context.database.transaction() as session:
            for number in range(count):
                name, lifetime = f"site-{number:04d}", timedelta(hours=1)
                tokens.append((await invite_client(session, "trial", name, ParticipantKind.PAIR, lifetime))[1])
        sites = await stack.enter_async_context(enrolled_sites(self.address, tokens))
        self.agents += [asyncio.ensure_future(site.run(blob)) for site in sites]
        while self.counts.calls["FetchTask"] < count:
            self._check()
            await asyncio.sleep(0.02)

    async def round(self, seconds: float = 240.0) -> Counts:
        """Run a round to its end; what it cost."""
        before = self.counts.copy()
        async with self.context.database.transaction() as session:
            federation = await get_federation(session, "trial")
            (row,) = await add_rounds(session, "trial", federation.config, self.public_sha256, 1)
        self.context.wakeups.changed("trial")
        async with asyncio.timeout(seconds):
            while (state := await self._state(row.id)) not in ("completed", "failed"):
                self._check()
                await asyncio.sleep(0.25)
        assert state == "completed"
        await asyncio.sleep(0.5)  # the agents ask for their next task
        return self.counts.copy().since(before)

    async def _state(self, round_id: str) -> str:
        statements, transactions = Counter(self.counts.statements), Counter(self.counts.transactions)
        executions = Counter(self.counts.executions)
        async with self.context.database.snapshot() as session:
            state = (await get_round(session, round_id)).state
        self.counts.executions -= self.counts.executions - executions
        self.counts.statements -= self.counts.statements - statements
        self.counts.transactions -= self.counts.transactions - transactions
        return state

    def _check(self) -> None:
        for task in (*self.agents, *self.work):
            if task.done():
                task.result()
                raise AssertionError("an agent, the coordinator or the distiller ended")


@asynccontextmanager
async def crowd_of(count: int, folder: Path, redis_url: str, *, light: bool = False) -> AsyncIterator[Crowd]:
    """`count` enrolled pair clients that wait for a round: agents, or with `light` no more than their calls."""
    url = f"sqlite:///{folder}/crowd.db"
    await asyncio.to_thread(migrated, url)
    database, counts = Database(url), Counts()
    _count_statements(database, counts)
    store = FolderStore(folder / "store")
    public = load_public_data("shapes", None, {"num_train": _NUM_PUBLIC, "num_val": 1, "num_test": 1})
    manifest = write_public_set(public, folder)
    store.put(f"public-sets/{manifest.sha256}/manifest.json", manifest.to_bytes())
    for shard in manifest.shards:
        store.put_file(f"public-sets/{manifest.sha256}/{shard.name}", folder / shard.name)
    publisher = WakeupPublisher(redis_url)
    wakeups = Wakeups(publisher.publish)
    context = Context(database, CountingStore(store, counts.objects), TOKEN, wakeups)
    config = FederationConfig(name="trial", embedding_dim=DIM).model_dump(mode="json")
    async with database.transaction() as session:
        row = await add_federation(session, "trial", config)
        row.public_set_sha256 = manifest.sha256
    server, _ = make_server(context, interceptors=[_CallCounter(counts.calls)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    announced: asyncio.Queue[tuple[StageKind, str]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def announce(kind: StageKind, stage: str) -> None:
        counts.messages[kind.value] += 1
        loop.call_soon_threadsafe(announced.put_nowait, (kind, stage))

    coordinator = Coordinator(context, Outbox(database, announce, folds_together=FOLDS_TOGETHER))
    crowd = Crowd(context, counts, manifest.sha256, f"127.0.0.1:{port}", folder)
    async with grpc.aio.insecure_channel(crowd.address) as channel, AsyncExitStack() as stack:
        crowd.work += [
            asyncio.ensure_future(coordinator.run()),
            asyncio.ensure_future(listen_for_wakeups(redis_url, wakeups.heard, but=publisher.origin)),
            asyncio.ensure_future(watch_rounds(context)),
            asyncio.ensure_future(_distil(announced, DistillationServiceStub(channel), store, counts)),
        ]
        try:
            await (crowd.add_light_sites(count, stack) if light else crowd.add_agents(count))
            yield crowd
        finally:
            crowd.stop.set()
            for site in crowd.agents if light else ():
                site.cancel()
            await asyncio.wait(crowd.agents, timeout=20)
            context.drain()
            for task in crowd.work:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    await server.stop(None)
    await context.progress.close()
    await context.renewals.close()
    await database.close()


def _count_statements(database: Database, counts: Counts) -> None:
    def executed(connection: Any, cursor: Any, statement: str, given: Any, _: Any, many: bool) -> None:
        # Rows that are inserted by one statement come as one flat tuple of values.
        rows = len(given) if many and given and isinstance(given[0], (tuple, dict)) else 1
        counts.statements[statement.partition(" ")[0]] += rows
        counts.executions[statement.partition(" ")[0]] += 1

    for engine, name in ((database.engine, "write"), (database.reading_engine, "read")):

        def begun(connection: Any, name: str = name) -> None:
            counts.transactions[name] += 1

        event.listen(engine.sync_engine, "before_cursor_execute", executed)
        event.listen(engine.sync_engine, "begin", begun)


async def _distil(
    announced: asyncio.Queue[tuple[StageKind, str]], stub: DistillationServiceStub, store: ObjectStore, counts: Counts
) -> None:
    """One distiller that makes each stage's outputs out of nothing, with one step of progress after each claim."""
    while True:
        _, stage_id = await announced.get()
        ask = distillation.ClaimStageRequest(stage_id=stage_id, worker="script", most_companions=FOLDS_TOGETHER - 1)
        try:
            claim = await stub.ClaimStage(ask, metadata=INTERNAL)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
            continue  # all that waited were companions of another message's
        while claim.stage_id:
            claim = await _work(claim, stub, store, counts)


async def _work(
    claim: distillation.ClaimStageResponse, stub: DistillationServiceStub, store: ObjectStore, counts: Counts
) -> distillation.ClaimStageResponse:
    """Do what was claimed; what is given next."""
    kind = stage_kind_from_wire(claim.kind)
    step = distillation.ReportStageProgressRequest(stage_id=claim.stage_id, token=claim.token, fraction=0.5)
    step.with_companions = bool(claim.companions)
    await stub.ReportStageProgress(step, metadata=INTERNAL)
    done = []
    stages: tuple[distillation.ClaimStageResponse | distillation.Companion, ...] = (claim, *claim.companions)
    for stage in stages:
        counts.stages[kind.value] += 1
        outputs = await _outputs(kind, stage.stage_id, claim.output_prefix, store)
        done.append(
            distillation.CompleteStageRequest(
                stage_id=stage.stage_id, token=stage.token, outputs=outputs, metrics=_METRICS.get(kind, {})
            )
        )
    done[0].companions.extend(done[1:])
    done[0].takes_next = True
    answer: distillation.CompleteStageResponse = await stub.CompleteStage(done[0], metadata=INTERNAL)
    return answer.next


async def _outputs(kind: StageKind, stage_id: str, prefix: str, store: ObjectStore) -> list[distillation.NamedArtifact]:
    outputs = []
    for name in _OUTPUTS[kind]:
        content = f"{name} {stage_id}".encode()
        sha256 = sha256_of(content)
        key = f"{prefix}{name}/{sha256}"
        await asyncio.to_thread(store.put, key, content)
        artifact = types_pb2.Artifact(sha256=sha256, size_bytes=len(content), purpose=name, key=key)
        outputs.append(distillation.NamedArtifact(name=name, artifact=artifact))
    return outputs
