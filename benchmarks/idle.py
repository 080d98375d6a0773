"""What waiting costs: the real aggregator, sites in long polls, and no round. Target: under 1 % of a core for 200.

The processor time that Linux books on the aggregator is counted, so that a busy machine counts nearly as an idle one.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.light_sites import WITHOUT_KEYS, Blob, LightSite, enrolled_sites
from benchmarks.measure import Clock, Ratio, Report
from fedafd.client.federation import FederationClient
from fedafd.local.services import Backends, Services, start_redis
from fedafd.local.supervisor import Supervisor, cpu_seconds, is_free

__all__ = ["run"]

_SITES = 200
_SECONDS = 120.0
_SETTLE_SECONDS = 10.0


def run(*, tiny: bool, repeats: int, clock: Clock) -> list[Report]:
    """One report; `repeats` and `clock` do not matter: what is counted is a total over two minutes."""
    sites, seconds, settle = (4, 2.0, 0.5) if tiny else (_SITES, _SECONDS, _SETTLE_SECONDS)
    with tempfile.TemporaryDirectory(prefix="fedafd-idle-") as folder, Supervisor(Path(folder) / "logs") as supervisor:
        share, calls = asyncio.run(_share_of_a_core(supervisor, Path(folder), sites, seconds, settle))
    facts: dict[str, Any] = {"sites": sites, "seconds": seconds, "calls a site": round(calls, 2)}
    return [Report("idle", f"{sites} sites", ratios=[Ratio("% of a core", 100 * share, at_most=1.0)], facts=facts)]


async def _share_of_a_core(
    supervisor: Supervisor, folder: Path, count: int, seconds: float, settle: float
) -> tuple[float, float]:
    """Of the aggregator while so many sites wait, and how many calls each makes in that time."""
    backends = Backends(
        database_url=f"sqlite:///{folder / 'fedafd.db'}",
        redis_url=start_redis(supervisor, folder),
        store={"URL": str(folder / "store")},
    )
    services = Services(supervisor, backends, http_port=None, threads=1, settings=WITHOUT_KEYS)
    services.migrate()
    services.start_control_plane()
    services.wait_for_control_plane()
    aggregator = services.start_aggregator()
    port = int(services.aggregator.rpartition(":")[2])
    supervisor.wait_until(lambda: not is_free(port), "the aggregator")
    rest = FederationClient(services.url, services.api_key, "idle")
    rest.create({"name": "idle", "preset": "small"})
    tokens = [rest.invite(f"site-{number:04d}", "pair") for number in range(count)]
    async with enrolled_sites(services.aggregator, tokens) as sites:
        waiting = [
            asyncio.ensure_future(_wait(site, seconds, settle, place / count)) for place, site in enumerate(sites)
        ]
        await asyncio.sleep(settle)
        before, calls = cpu_seconds(aggregator.process.pid), sum(site.num_polls for site in sites)
        await asyncio.sleep(seconds)
        used = cpu_seconds(aggregator.process.pid) - before
        calls = sum(site.num_polls for site in sites) - calls
        for task in waiting:
            if task.done():
                task.result()
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*waiting, return_exceptions=True)
    rest.close()
    return used / seconds, calls / count


async def _wait(site: LightSite, seconds: float, settle: float, share: float) -> None:
    """Begin at a moment of its own, as sites that were started by different people do, and wait for a round."""
    await asyncio.sleep(share * settle / 2)
    await site.run(Blob.of(b"never sent"))
    raise AssertionError(f"a site that waits for nothing ended within {seconds:g} s")
