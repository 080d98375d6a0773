"""A database or broker that does not answer is noticed in time, delays nothing else, and lets a process end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from tests.aggregator.world import World
from tests.hole import hole
from tests.servers import accepts, free_port, wait_until

from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.outbox import Outbox
from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import DatabaseUnavailableError, StorageUnavailableError
from fedafd.domain.kinds import StageKind
from fedafd.persistence import clock
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.lease_repository import COORDINATOR_LEASE, acquire_lease
from fedafd.persistence.migrate import migrate
from fedafd.persistence.round_repository import add_rounds, get_round
from fedafd.storage.folder import FolderStore


def through(url: str, port: int) -> str:
    return make_url(url).set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)


def socket_of(url: str) -> str:
    return f"{make_url(url).query['host']}/.s.PGSQL.5432"


async def until(ready: object, what: str, seconds: float = 30) -> float:
    started = time.monotonic()
    while not ready():  # type: ignore[operator]
        assert time.monotonic() - started < seconds, what
        await asyncio.sleep(0.05)
    return time.monotonic() - started


class Swallowing:
    """A broker that takes each packet and answers none: whoever asks waits for the time limit."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def intact(self) -> bool:
        time.sleep(self._seconds)
        raise StorageUnavailableError("no answer")

    def remember(self) -> None:
        raise AssertionError("nothing to remember")

    def deliver(self, _: StageKind, __: str) -> None:
        self.intact()


async def test_a_broker_that_swallows_packets_delays_no_round(world: World) -> None:
    broker = Swallowing(6)
    outbox = Outbox(world.context.database, broker.deliver, broker)
    running = asyncio.ensure_future(Coordinator(world.context, outbox, poll_seconds=0.1).run())
    try:
        await until(lambda: gauge(world.context) == 1, "the lease", 5)
        await asyncio.sleep(0.5)  # the sender hangs by now
        async with world.context.database.transaction() as session:
            (row,) = await add_rounds(
                session, "trial", FederationConfig(name="trial").model_dump(mode="json"), world.public_sha256, 1
            )
        for _ in range(60):
            if (await world.round(row.id)).state == "preparing":
                break
            await asyncio.sleep(0.05)
        assert (await world.round(row.id)).state == "preparing"
    finally:
        world.context.drain()
        await asyncio.wait((running,), timeout=10)
    assert running.done()


async def test_a_coordinator_whose_database_hangs_stands_down_and_goes_on_afterwards(
    postgres_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(migrate, postgres_url)
    with hole(socket_of(postgres_url)) as way:
        database = Database(through(postgres_url, way.port))
        context = Context(database, FolderStore(tmp_path / "store"), "internal")
        outbox = Outbox(database, lambda kind, stage: None)
        running = asyncio.ensure_future(Coordinator(context, outbox, lease_seconds=1, poll_seconds=0.1).run())
        try:
            await until(lambda: gauge(context) == 1, "the lease")
            way.swallow()
            assert await until(lambda: gauge(context) == 0, "the gauge falls", 10) < 5
            way.let_through()
            await until(lambda: gauge(context) == 1, "coordinating again", 30)
        finally:
            way.let_through()
            context.drain()
            await asyncio.wait((running,), timeout=20)
            await database.close()


async def test_who_is_cut_off_in_a_transaction_does_not_keep_the_lease_locked(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedafd.persistence.database._IDLE_TRANSACTION_SECONDS", 1)
    await asyncio.to_thread(migrate, postgres_url)
    with hole(socket_of(postgres_url)) as way:
        lost, other = Database(through(postgres_url, way.port)), Database(postgres_url)

        async def coordinate(*, cut_off: bool) -> None:
            async with lost.transaction() as session:
                assert await acquire_lease(session, COORDINATOR_LEASE, "lost", timedelta(seconds=0.1)) == 1
                if cut_off:
                    way.swallow()
                    try:
                        async with asyncio.timeout(20), other.transaction() as session:
                            assert await acquire_lease(session, COORDINATOR_LEASE, "other", timedelta(seconds=9)) == 2
                    finally:
                        way.let_through()

        try:
            await coordinate(cut_off=False)
            await asyncio.sleep(0.2)  # the lease is free by the clock; what keeps it is the row's lock
            with pytest.raises(DatabaseUnavailableError):
                await coordinate(cut_off=True)
        finally:
            way.let_through()
            await lost.close()
            await other.close()


def test_an_aggregator_ends_in_its_grace_though_database_and_broker_swallow_packets(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    migrate(postgres_url)
    port, redis_port = free_port(), int(redis_url.split(":")[2].split("/")[0])
    with hole(socket_of(postgres_url)) as database, hole(("127.0.0.1", redis_port)) as broker:
        settings = {
            "LISTEN": f"127.0.0.1:{port}",
            "DATABASE_URL": through(postgres_url, database.port),
            "REDIS_URL": f"redis://127.0.0.1:{broker.port}/0",
            "STORE__URL": str(tmp_path / "store"),
            "INTERNAL_TOKEN": "an internal token",
            "SHUTDOWN_GRACE_SECONDS": "1",
        }
        environment = os.environ | {f"FEDAFD_AGGREGATOR_{key}": value for key, value in settings.items()}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fedafd.aggregator.server"], env=environment, stdout=log, stderr=log
            )
        try:
            wait_until(lambda: accepts(port), "the aggregator", seconds=60)
            time.sleep(1)
            database.swallow()
            broker.swallow()
            time.sleep(3)
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            process.wait(25)
            assert time.monotonic() - started < 15
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def two_hours_ahead(monkeypatch: pytest.MonkeyPatch) -> timedelta:
    ahead = timedelta(hours=2)
    monkeypatch.setattr(clock, "_wall", lambda: datetime.now(UTC) + ahead)
    monkeypatch.setattr(clock, "shared_clock", clock.SharedClock())
    return ahead


async def test_leases_and_deadlines_go_by_the_databases_clock(
    postgres_url: str, two_hours_ahead: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process on a machine that is two hours ahead leaves a lease that another can take when it ends."""
    await asyncio.to_thread(migrate, postgres_url)
    own = clock.shared_clock
    monkeypatch.setattr("fedafd.persistence.database.shared_clock", own)
    database = Database(postgres_url)
    assert clock.utc_now() - datetime.now(UTC) > timedelta(hours=1)
    await database.ping()
    assert abs(clock.utc_now() - datetime.now(UTC)) < timedelta(seconds=2)
    assert own.skew_seconds == pytest.approx(7200, abs=5)
    async with database.transaction() as session:
        await add_federation(session, "trial", FederationConfig(name="trial").model_dump(mode="json"))
        (row,) = await add_rounds(session, "trial", {}, "0" * 64, 1)
        assert await acquire_lease(session, COORDINATOR_LEASE, "ahead", timedelta(seconds=0.2)) == 1
    async with database.snapshot() as session:
        assert abs((await get_round(session, row.id)).created_at - datetime.now(UTC)) < timedelta(seconds=5)
    await asyncio.sleep(0.3)
    own.forget()
    monkeypatch.setattr(clock, "_wall", lambda: datetime.now(UTC))
    async with database.transaction() as session:
        assert await acquire_lease(session, COORDINATOR_LEASE, "right", timedelta(seconds=1)) == 2
    await database.close()


def gauge(context: Context) -> float | None:
    return context.metrics.metrics.registry.get_sample_value("fedafd_aggregator_coordinator_leader")
