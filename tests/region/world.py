"""An upper federation and regions below it: real servers, stores, agents and stages, all in this process.

What trains does so one after the other, since torch's generators are the process's own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.databases import migrated
from tests.end_to_end.federation import FEDERATION, TINY_IMAGE, TINY_TEXT

from fedafd.agent.metrics import AgentMetrics
from fedafd.agent.own_data import look_at
from fedafd.agent.runner import Agent
from fedafd.agent.site import Site
from fedafd.agent.state import StateDirectory
from fedafd.agent.training import LocalResult, LocalTask, Trainer
from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.outbox import Outbox
from fedafd.aggregator.server import make_server
from fedafd.distiller.client import DistillationClient
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.public_sets import PublicSets
from fedafd.distiller.shutdown import Shutdown
from fedafd.distiller.tasks import StageRunner
from fedafd.domain.config import parse_agent_config, parse_federation_config
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.kinds import ParticipantKind, StageKind
from fedafd.persistence.client_repository import invite_client
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation, get_federation
from fedafd.persistence.models import ParticipationRow, RoundRow
from fedafd.persistence.participation_repository import list_participations
from fedafd.persistence.round_repository import add_rounds, get_round_by_number
from fedafd.region.own_federation import OwnFederation
from fedafd.region.runner import Region
from fedafd.storage.folder import FolderStore

TOKEN = "internal"
CACHE_BYTES = 10**8
UPPER: dict[str, Any] = {"name": "upper", "distillation": {"start_round": 1, "weight_cap": 1.0}}
"""Regions cap their sites among themselves: they give what a flat federation gives where no weight reaches a cap."""
_TRAINS = threading.Lock()


@dataclass
class Services:
    """An aggregator with its coordinator, a distiller, a database and a store."""

    database: Database
    database_url: str
    store: FolderStore
    context: Context
    address: str

    async def federation(self, name: str, **values: Any) -> None:
        # A busy machine must not look like a silent participant.
        patient = {"name": name, "idle_timeout_seconds": 600}
        config = parse_federation_config(FEDERATION | patient | values)
        async with self.database.transaction() as session:
            await add_federation(session, name, config.model_dump(mode="json"))

    async def invite(self, federation: str, name: str, kind: str, max_clients: int | None = None) -> str:
        async with self.database.transaction() as session:
            _, token = await invite_client(
                session, federation, name, ParticipantKind(kind), timedelta(hours=1), max_clients=max_clients
            )
        return token

    async def start_round(self, federation: str) -> int:
        async with self.database.transaction() as session:
            row = await get_federation(session, federation)
            (begun,) = await add_rounds(session, federation, row.config, row.public_set_sha256 or "", 1)
        self.context.wakeups.changed(federation)
        return begun.number

    async def round(self, federation: str, number: int) -> tuple[RoundRow, dict[str, ParticipationRow]]:
        async with self.database.snapshot() as session:
            row = await get_round_by_number(session, federation, number)
            parts = await list_participations(session, row.id)
        return row, {client.name: part for part, client in parts}

    async def over(self, federation: str, number: int, seconds: float = 200) -> RoundRow:
        """The round once it has ended."""

        async def ended() -> bool:
            with suppress(Exception):
                return (await self.round(federation, number))[0].finished_at is not None
            return False

        await until(ended, f"round {number} of {federation}", seconds)
        return (await self.round(federation, number))[0]


@asynccontextmanager
async def services(folder: Path) -> AsyncIterator[Services]:
    await asyncio.to_thread(folder.mkdir, parents=True)
    url = f"sqlite:///{folder}/fedafd.db"
    await asyncio.to_thread(migrated, url)
    database, store = Database(url), FolderStore(folder / "store")
    context = Context(database, store, TOKEN, stage_lease=timedelta(seconds=60))
    server, _ = make_server(context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    waiting: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def send(kind: StageKind, stage: str) -> None:
        loop.call_soon_threadsafe(waiting.put_nowait, stage)

    coordinator = Coordinator(context, Outbox(database, send), poll_seconds=0.05)
    metrics = DistillerMetrics()
    sets = PublicSets(store, folder / "cache", limit_bytes=CACHE_BYTES)
    runner = StageRunner(
        DistillationClient(f"127.0.0.1:{port}", TOKEN), store, sets, "cpu", metrics, Shutdown(5, metrics), 1
    )

    def work(stage: str) -> None:
        with _TRAINS:
            runner.run(stage)

    async def distil() -> None:
        while True:
            await asyncio.to_thread(work, await waiting.get())

    async with running(coordinator.run(), distil()):
        yield Services(database, url, store, context, f"127.0.0.1:{port}")
    await server.stop(None)
    await context.progress.close()
    await context.renewals.close()
    await database.close()


@asynccontextmanager
async def running(*work: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def at_work(make: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[asyncio.Task[None]]:
    """What runs until its event is set: an agent, or a region."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(make(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


async def until(ready: Callable[[], Awaitable[bool]], what: str, seconds: float = 200) -> None:
    async with asyncio.timeout(seconds):
        while not await ready():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


class OneAtATime:
    """A site whose training waits for all others'."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def train(self, task: LocalTask, progress: Any) -> LocalResult:
        with _TRAINS:
            return self._site.train(task, progress)


def site_values(name: str, kind: str) -> dict[str, Any]:
    """agent.yaml of a tiny site, without where it is."""
    options = {"num_train": 24, "num_val": 8, "num_test": 8, "seed": sum(map(ord, name))}
    encoders: Mapping[str, Any] = {
        "image": {"image_encoder": TINY_IMAGE},
        "text": {"text_encoder": TINY_TEXT},
        "pair": {"image_encoder": TINY_IMAGE, "text_encoder": TINY_TEXT},
    }[kind]
    return {"kind": kind, "data": {"adapter": "shapes", "options": options}, "device": "cpu", **encoders}


async def agent(
    folder: Path,
    below: Services,
    name: str,
    kind: str,
    token: str,
    stop: asyncio.Event,
    trainer: Trainer | None = None,
) -> None:
    """A site's agent, which trains for real unless another trainer is given."""
    values = site_values(name, kind) | {"aggregator": below.address, "state_dir": str(folder)}
    config = parse_agent_config(values)
    state = StateDirectory(folder)
    made = Agent(
        config,
        trainer or OneAtATime(Site(config, look_at(config)[0])),
        state,
        stop=stop,
        metrics=AgentMetrics(),
        cache_limit_bytes=CACHE_BYTES,
        poll_seconds=5,
    )
    await made.run(token)


async def region(
    folder: Path, above: Services, below: Services, federation: str, token: str | None, stop: asyncio.Event
) -> None:
    config = RegionConfig(aggregator=above.address, federation=federation, state_dir=folder)
    own = OwnFederation(below.database, below.store, federation)
    state = StateDirectory(folder)
    options: dict[str, Any] = {"cache_limit_bytes": CACHE_BYTES, "poll_seconds": 5, "look_seconds": 0.1}
    await Region(config, own, state, stop=stop, **options).run(token)


@asynccontextmanager
async def whole_region(
    folder: Path, above: Services, below: Services, name: str, sites: Mapping[str, str], token: str
) -> AsyncIterator[None]:
    """The region with its own federation, which is called as it is, and its sites by name and kind, at work."""
    await below.federation(name)
    async with AsyncExitStack() as stack:
        for site, kind in sites.items():
            invited = await below.invite(name, site, kind)
            await stack.enter_async_context(
                at_work(lambda stop, s=site, k=kind, t=invited: agent(folder / s, below, s, k, t, stop))  # type: ignore[misc]
            )
        await stack.enter_async_context(
            at_work(lambda stop: region(folder / "region", above, below, name, token, stop))
        )
        yield
