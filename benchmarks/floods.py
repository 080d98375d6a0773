"""What others notice while one client floods the services: an honest call's time, idle and under each flood.

The real control plane and aggregator, a flood from a process of its own, and the honest caller in this one. Idle and
flooded windows take turns, so that a busy machine counts for both. Target: at most 3 times the idle time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
from sqlalchemy import Select, select

from benchmarks.flooding import FLOODS, OF_AGENTS, Target, flood
from benchmarks.light_sites import WITHOUT_KEYS
from benchmarks.measure import Clock, Ratio, Report, Times
from fedafd.client.federation import FederationClient
from fedafd.domain.hashing import sha256_of
from fedafd.local.services import Backends, Services, start_redis
from fedafd.local.supervisor import Supervisor, is_free
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import add_files
from fedafd.persistence.models import ModelVersionRow, RoundRow, StageRow
from fedafd.persistence.round_repository import add_rounds
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2 as dpb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata
from fedafd.storage.folder import FolderStore

__all__ = ["run"]

_AT_MOST = 3.0
_TOKEN = "fedafd-internal.benchmark-of-floods"
_CALLS, _PAUSE_SECONDS = 20, 0.05
_SETTLE_SECONDS, _TINY_SECONDS = 2.0, 0.6


def run(*, tiny: bool, repeats: int, clock: Clock, database_url: str | None = None) -> list[Report]:
    """A report for each flood: an honest call's median time in each window, idle and flooded; the wall clock counts.

    `database_url`: an empty database; default: SQLite in a file.
    """
    reports = []
    with tempfile.TemporaryDirectory(prefix="fedafd-floods-") as folder, Supervisor(Path(folder) / "logs") as started:
        scene = _Scene(started, Path(folder), database_url)
        for name, (_, most) in FLOODS.items():
            at_once = 4 if tiny else most
            honest = scene.report if name in OF_AGENTS else scene.read
            reports.append(_report(name, at_once, honest, scene.target, repeats, tiny=tiny))
            sys.stderr.write(f"{name}: {reports[-1].ratios[0].value:.1f} times the idle call\n")
            started.check()
        scene.close()
    return reports


def _report(name: str, at_once: int, honest: Callable[[], None], target: Target, repeats: int, *, tiny: bool) -> Report:
    calls, settle = (4, 0.2) if tiny else (_CALLS, _SETTLE_SECONDS)
    idle: list[float] = []
    flooded: list[float] = []
    slowest = 0.0
    _window(honest, calls)
    for _ in range(repeats):
        idle.append(statistics.median(_window(honest, calls)))
        with _flooded(name, target, at_once, apart=not tiny):
            time.sleep(settle)
            window = _window(honest, calls)
        flooded.append(statistics.median(window))
        slowest = max(slowest, *window)
        time.sleep(settle / 3)
    ratios = [after / before for before, after in zip(idle, flooded, strict=True)]
    facts = {
        "at once": at_once,
        "ratios": f"{min(ratios):.2f} to {max(ratios):.2f}",
        "slowest seconds": round(slowest, 3),
    }
    return Report(
        "floods",
        name,
        times={"idle": Times(idle, idle), "flooded": Times(flooded, flooded)},
        ratios=[Ratio("times the idle call", statistics.median(ratios), at_most=_AT_MOST)],
        facts=facts,
    )


@contextmanager
def _flooded(name: str, target: Target, at_once: int, *, apart: bool) -> Iterator[None]:
    """While a flood runs, in a process of its own, or in a thread, whose start costs nothing."""
    if not apart:
        started = threading.Event()
        thread = threading.Thread(target=flood, args=(name, target, at_once, started, _TINY_SECONDS))
        thread.start()
        started.wait()
        yield
        thread.join()
        return
    spawn = multiprocessing.get_context("spawn")
    begun = spawn.Event()
    process = spawn.Process(target=flood, args=(name, target, at_once, begun), daemon=True)
    process.start()
    try:
        begun.wait()
        yield
    finally:
        process.kill()
        process.join()


def _window(honest: Callable[[], None], calls: int) -> list[float]:
    """Seconds of each of so many calls, with pauses, as an agent or a dashboard makes them."""
    seconds = []
    for _ in range(calls):
        begun = time.perf_counter()
        honest()
        seconds.append(time.perf_counter() - begun)
        time.sleep(_PAUSE_SECONDS)
    return seconds


class _Scene:
    """Services with a round that collects from a greedy and an honest site, and a model version to download."""

    def __init__(self, supervisor: Supervisor, folder: Path, database_url: str | None) -> None:
        backends = Backends(
            database_url=database_url or f"sqlite:///{folder / 'fedafd.db'}",
            redis_url=start_redis(supervisor, folder),
            store={"URL": str(folder / "store")},
        )
        services = Services(
            supervisor, backends, http_port=None, threads=1, settings=WITHOUT_KEYS, internal_token=_TOKEN
        )
        services.start(distiller=False)
        port = int(services.aggregator.rpartition(":")[2])
        supervisor.wait_until(lambda: not is_free(port), "the aggregator")
        self._until, self._store = supervisor.wait_until, FolderStore(folder / "store")
        self._stack = ExitStack()
        channel = self._stack.enter_context(grpc.insecure_channel(services.aggregator))
        self._agents, self._distillers = AggregatorServiceStub(channel), DistillationServiceStub(channel)
        rest = FederationClient(services.url, services.api_key, "floods")
        rest.create({"name": "floods", "preset": "small", "round_deadline_seconds": 36_000})
        tokens = [rest.invite(name, "image") for name in ("greedy", "honest")]
        greedy, self._honest = (self._enrolled(token, number) for number, token in enumerate(tokens))
        self._round_id = asyncio.run(_with_round(backends.database_url, self._store))
        self._prepare(backends.database_url)
        rest.close()
        headers = {"Authorization": f"Bearer {services.api_key}"}
        self._reader = self._stack.enter_context(httpx.Client(base_url=services.url, headers=headers, timeout=60))
        viewer = self._reader.post("/v1/api-keys", json={"name": "viewer", "role": "viewer"})
        viewer.raise_for_status()
        self.target = Target(services.aggregator, greedy, self._round_id, services.url, viewer.json()["secret"])

    def close(self) -> None:
        """Hang up."""
        self._stack.close()

    def report(self) -> None:
        """What an honest site does every few seconds."""
        request = pb.ReportProgressRequest(round_id=self._round_id, fraction=0.5)
        self._agents.ReportProgress(request, metadata=self._honest, timeout=60)

    def read(self) -> None:
        """What an operator's program does."""
        self._reader.get("/v1/federations/floods").raise_for_status()

    def _enrolled(self, token: str, number: int) -> tuple[tuple[str, str], ...]:
        answer = self._agents.Enroll(pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_IMAGE))
        return (*bearer_metadata(answer.credential), *session_metadata(f"{number:016x}"))

    def _prepare(self, database_url: str) -> None:
        """Be the distiller of the first stage, whose outputs nobody reads."""
        stage, state = StageRow.round_id == self._round_id, select(RoundRow.state).where(RoundRow.id == self._round_id)

        def first(query: Select[str]) -> str | None:
            return asyncio.run(_first(database_url, query))

        self._until(lambda: first(select(StageRow.id).where(stage)) is not None, "the first stage")
        stage_id, internal = first(select(StageRow.id).where(stage)) or "", bearer_metadata(_TOKEN)
        claimed = self._distillers.ClaimStage(
            dpb.ClaimStageRequest(stage_id=stage_id, worker="floods"), metadata=internal
        )
        outputs = []
        for name in ("server-state", "representations", "encoder-bundle/image", "encoder-bundle/text"):
            content, key = name.encode(), f"{claimed.output_prefix}{name}/{sha256_of(name.encode())}"
            self._store.put(key, content)
            artifact = types_pb2.Artifact(sha256=sha256_of(content), size_bytes=len(content), purpose=name, key=key)
            outputs.append(dpb.NamedArtifact(name=name, artifact=artifact))
        done = dpb.CompleteStageRequest(stage_id=stage_id, token=claimed.token, outputs=outputs)
        self._distillers.CompleteStage(done, metadata=internal)
        self._until(lambda: first(state) == "collecting", "the round")


async def _first(database_url: str, query: Select[str]) -> str | None:
    database = Database(database_url)
    try:
        async with database.transaction() as session:
            found: str | None = await session.scalar(query)
            return found
    finally:
        await database.close()


async def _with_round(database_url: str, store: FolderStore) -> str:
    """A completed round with its model version, and the next one queued; its id."""
    database = Database(database_url)
    async with database.transaction() as session:
        owner = await get_federation(session, "floods", lock=True)
        (before,) = await add_rounds(session, "floods", owner.config, "0" * 64, 1)
        before.state = "completed"
        version = ModelVersionRow(
            federation_id="floods", version=1, round_id=before.id, state_key="none", state_sha256="0" * 64, metrics={}
        )
        session.add(version)
        await session.flush()
        files = {"config.json": b"{}" * 50_000, "model.safetensors": b"\0" * 4_000_000}
        for path, content in files.items():
            store.put(f"federations/floods/test/{path}", content)
        await add_files(
            session,
            version,
            {
                path: {
                    "sha256": sha256_of(content),
                    "size_bytes": len(content),
                    "purpose": "model-file",
                    "key": f"federations/floods/test/{path}",
                }
                for path, content in files.items()
            },
        )
    async with database.transaction() as session:
        owner = await get_federation(session, "floods", lock=True)
        (row,) = await add_rounds(session, "floods", owner.config, "0" * 64, 1)
    await database.close()
    return row.id
