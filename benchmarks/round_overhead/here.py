"""Rounds of this system: the real control plane, aggregator and distiller, and sites that train nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks.counted_aggregator import COUNTS_FILE, read_counts
from benchmarks.light_sites import WITHOUT_KEYS, Blob, LightSite, enrolled_sites
from benchmarks.round_overhead.case import Case
from benchmarks.round_overhead.phases import Phases, phases_of
from benchmarks.round_overhead.process_cost import forget_peak, own_bytes, peak_bytes, resident_bytes
from benchmarks.round_overhead.timed_distiller import WORK_FILE, seconds_by_kind, work_of
from fedafd.client.answers import Round
from fedafd.client.federation import FederationClient
from fedafd.datasets import load_public_data, write_public_set
from fedafd.local.services import Backends, Services, start_redis
from fedafd.local.supervisor import Child, Supervisor, cpu_seconds, free_port, is_free

__all__ = ["Here", "RoundCost"]

_ROUND_SECONDS = 900.0
_LOOK_SECONDS = 0.1
_TRAINING = ("prepare", "distil", "evaluate")


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """One round."""

    seconds: float
    """From its request to its end."""
    work: dict[str, float]
    """Seconds of the distiller's arithmetic, by kind of stage."""
    seconds_after_last: float
    """From the last accepted delivery to the end, without training."""
    cpu_seconds: float
    """Of all aggregators."""
    own_growth_bytes: int
    """Of the own memory of the aggregator that grew most, at its peak."""
    own_growth_since_start_bytes: int
    """The same since its start, with all rounds before."""
    growth_bytes: int
    """The same with pages of files."""
    counts: dict[str, int]
    bytes_down: int
    """Of one client."""
    bytes_up: int
    broken_calls: int
    """Of all clients: what ended because the line did, and was done again."""
    phases: Phases

    @property
    def overhead(self) -> float:
        """Seconds beyond the server's own training; folds and merges are no training."""
        return self.seconds - self.training

    @property
    def training(self) -> float:
        """Seconds of the server's own training."""
        return sum(self.work.get(kind, 0.0) for kind in _TRAINING)


@dataclass
class _Federation:
    case: Case
    rest: FederationClient
    sites: list[LightSite]
    blobs: list[Blob]
    rounds: int = 0


@dataclass
class Here:
    """The services, and a federation for each case."""

    supervisor: Supervisor
    folder: Path
    database_url: str | None = None
    redis_url: str | None = None
    aggregators: int = 1
    """The distiller calls the first; the sites' connections take turns."""
    spread_seconds: float = 0.0
    """Between the first and the last of a round's sites that begin to upload; the others are spread evenly."""
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _federations: dict[Case, _Federation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._counts, self._work = self.folder / "counts", self.folder / "work.jsonl"
        self._services = Services(
            self.supervisor,
            Backends(
                database_url=self.database_url or f"sqlite:///{self.folder / 'fedafd.db'}",
                redis_url=self.redis_url or start_redis(self.supervisor, self.folder),
                store={"URL": str(self.folder / "store")},
            ),
            http_port=None,
            threads=len(os.sched_getaffinity(0)),
            settings=WITHOUT_KEYS | {COUNTS_FILE: str(self._counts), WORK_FILE: str(self._work)},
        )
        services = self._services
        services.migrate()
        services.start_control_plane()
        services.wait_for_control_plane()
        self._addresses = [services.aggregator, *(f"127.0.0.1:{free_port()}" for _ in range(1, self.aggregators))]
        self._pids = [self._start_aggregator(number) for number in range(self.aggregators)]
        self._at_start = {pid: own_bytes(pid) for pid in self._pids}
        self._most = dict(self._at_start)
        services.start_distiller("benchmarks.round_overhead.timed_distiller")

    def _start_aggregator(self, number: int) -> int:
        """Its process; it answers."""
        name, address = f"aggregator-{number}", self._addresses[number]
        module = "benchmarks.counted_aggregator"
        process: Child = self._services.start_aggregator(address, name, module)
        port = int(address.rpartition(":")[2])
        self.supervisor.wait_until(lambda: not is_free(port), name)
        return process.process.pid

    async def add(self, case: Case) -> None:
        """Create the case's federation and enrol its clients."""
        rest = FederationClient(self._services.url, self._services.api_key, case.name)
        rest.create(case.federation())
        public = load_public_data("shapes", None, {"num_train": case.shape[0], "num_val": 8, "num_test": 8})
        sha256 = write_public_set(public, self.folder / case.name).sha256
        rest.push_public_set(self.folder / case.name)
        tokens = [rest.invite(f"site-{number:04d}", "pair") for number in range(case.clients)]
        sites = await self._stack.enter_async_context(enrolled_sites(self._addresses[0], tokens, *self._addresses[1:]))
        for number, site in enumerate(sites):
            site.trains_seconds = self.spread_seconds * number / max(1, len(sites) - 1)
        self._federations[case] = _Federation(case, rest, sites, list(case.blobs(sha256)))

    async def round(self, case: Case) -> RoundCost:
        """Run a round of the case; its sites wait for it already."""
        federation = self._federations[case]
        taking_part = [
            asyncio.ensure_future(site.run(blob)) for site, blob in zip(federation.sites, federation.blobs, strict=True)
        ]
        try:
            await asyncio.sleep(0.5 + 0.005 * case.clients)  # all wait in their long polls
            return await self._measured(federation, taking_part)
        finally:
            for task in taking_part:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*taking_part, return_exceptions=True)

    async def close(self) -> None:
        """Hang up."""
        await self._stack.aclose()
        for federation in self._federations.values():
            federation.rest.close()

    async def _measured(self, federation: _Federation, taking_part: Sequence[asyncio.Future[None]]) -> RoundCost:
        federation.rounds += 1
        number, down = federation.rounds, [site.bytes_down for site in federation.sites]
        for pid in self._pids:
            forget_peak(pid)
        counts, cpu = read_counts(self._counts, self._pids), self._cpu_seconds()
        resident = {pid: resident_bytes(pid) for pid in self._pids}
        await asyncio.to_thread(federation.rest.start_rounds, 1)
        done, own_growth = await self._ended(federation.rest, number, taking_part)
        counted = read_counts(self._counts, self._pids)
        created, finished = (datetime.fromisoformat(str(done[name])) for name in ("created_at", "finished_at"))
        if any(number not in site.accepted for site in federation.sites):
            raise AssertionError(f"{federation.case}: a delivery did not count in round {number}")
        stages = work_of(self._work, federation.case.name, number)
        work = seconds_by_kind(stages)
        details = await asyncio.to_thread(federation.rest.round, number)
        last = max(site.delivered_at for site in federation.sites)
        return RoundCost(
            seconds=(finished - created).total_seconds(),
            work=work,
            seconds_after_last=finished.timestamp() - last - work.get("distil", 0.0) - work.get("evaluate", 0.0),
            cpu_seconds=self._cpu_seconds() - cpu,
            own_growth_bytes=own_growth,
            own_growth_since_start_bytes=max(self._most[pid] - self._at_start[pid] for pid in self._pids),
            growth_bytes=max(0, *(peak_bytes(pid) - before for pid, before in resident.items())),
            counts={name: counted[name] - before for name, before in counts.items()},
            bytes_down=max(site.bytes_down - before for site, before in zip(federation.sites, down, strict=True)),
            bytes_up=federation.blobs[0].size_bytes,
            broken_calls=sum(site.num_broken for site in federation.sites),
            phases=phases_of(details, stages),
        )

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in self._pids)

    async def _ended(
        self, rest: FederationClient, number: int, taking_part: Sequence[asyncio.Future[None]]
    ) -> tuple[Round, int]:
        """The round once it is completed, and by how much an aggregator's own memory was seen to grow at most."""
        most, until = 0, time.monotonic() + _ROUND_SECONDS
        before = {pid: own_bytes(pid) for pid in self._pids}
        while True:
            for _ in range(10):
                for pid, own in before.items():
                    now = own_bytes(pid)
                    most, self._most[pid] = max(most, now - own), max(self._most[pid], now)
                await asyncio.sleep(_LOOK_SECONDS)
            self.supervisor.check()
            for task in taking_part:
                if task.done():
                    task.result()
            rounds = await asyncio.to_thread(rest.rounds)
            found = next(each for each in rounds if each["number"] == number)
            if found["state"] == "completed":
                return found, most
            if found["finished_at"] is not None or time.monotonic() > until:
                raise AssertionError(f"{rest.name}: round {number} is {found['state']}: {found['reason']}")
