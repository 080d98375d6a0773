"""How long a page of the dashboard takes in a big federation: 1,000 sites, 200 rounds, all of them in every round.

The real application answers in this process, on a SQLite file that is filled here, without a socket. Target: every
page, and what `fedafd status` asks for, within a second.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.measure import Clock, Ratio, Report, Times
from fedafd.control_plane.app import create_app
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import (
    ClientRow,
    EventRow,
    ModelVersionRow,
    ParticipationRow,
    RoundRow,
    StageRow,
    utc_now,
)
from fedafd.persistence.round_repository import add_rounds
from fedafd.storage import StoreSettings

__all__ = ["run"]

_SITES, _ROUNDS = 1000, 200
_AT_MOST_SECONDS = 1.0
_KEY = "fedafd-key.benchmark-of-pages"
_F = "/federations/big"
_PAGES = {
    "home": "/",
    "rounds": _F,
    "round": f"{_F}/rounds/2",
    "does it help": f"{_F}/benefit",
    "models": f"{_F}/models",
    "version": f"{_F}/models/2",
    "sites": f"{_F}/sites",
    "configuration": f"{_F}/configuration",
    "events": f"{_F}/events",
    "status": "/v1/status",
}
_TOLD = {
    "federated/acc1": 80.0,
    "local/acc1": 70.0,
    "global/acc1": 60.0,
    "alone/acc1": 78.0,
    "over_alone/difference": 2.0,
    "over_alone/standard_error": 1.0,
    "over_local/difference": 10.0,
    "over_local/standard_error": 1.0,
}


def run(*, tiny: bool, repeats: int, clock: Clock) -> list[Report]:
    """One report: the times of each page, and the slowest one's median beside the target."""
    sites, rounds = (5, 3) if tiny else (_SITES, _ROUNDS)
    with tempfile.TemporaryDirectory(prefix="fedafd-pages-") as folder:
        times, sizes = asyncio.run(_measured(Path(folder), sites, rounds, repeats))
    slowest = max(each.median(clock) for each in times.values())
    return [
        Report(
            "pages",
            f"{sites} sites, {rounds} rounds",
            times=times,
            ratios=[Ratio("seconds of the slowest", slowest, at_most=_AT_MOST_SECONDS)],
            facts={f"kB of {name}": round(size / 1000) for name, size in sizes.items()},
        )
    ]


async def _measured(folder: Path, sites: int, rounds: int, repeats: int) -> tuple[dict[str, Times], dict[str, int]]:
    """Times and length of each page, by its name."""
    url = f"sqlite:///{folder / 'fedafd.db'}"
    migrate(url)
    store = StoreSettings(url=str(folder / "store"))
    values: Mapping[str, Any] = {"database_url": url, "store": store, "admin_key": _KEY}
    app = create_app(ControlPlaneSettings(**values))
    transport = httpx.ASGITransport(app)
    times: dict[str, Times] = {}
    sizes: dict[str, int] = {}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://benchmark", timeout=600) as person,
    ):
        owner = {"Authorization": f"Bearer {_KEY}"}
        made = await person.post("/v1/federations", json={"name": "big", "preset": "small"}, headers=owner)
        made.raise_for_status()
        async with app.state.context.database.transaction() as session:
            await _fill(session, sites, rounds)
        entered = await person.post("/login", data={"key": _KEY})
        if entered.status_code != HTTPStatus.SEE_OTHER:
            raise RuntimeError(f"the login was answered with {entered.status_code}")
        for name, path in _PAGES.items():
            times[name], sizes[name] = await _asked(person, path, owner if path.startswith("/v1") else {}, repeats)
    return times, sizes


async def _asked(person: httpx.AsyncClient, path: str, headers: Mapping[str, str], repeats: int) -> tuple[Times, int]:
    """The times of one page, after it was asked for once."""
    found, size = Times([], []), 0
    for repeat in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        answer = await person.get(path, headers=headers)
        answer.raise_for_status()
        size = len(answer.content)
        if repeat:
            found.wall.append(time.perf_counter() - wall)
            found.cpu.append(time.process_time() - cpu)
    return found, size


async def _fill(session: AsyncSession, sites: int, rounds: int) -> None:
    """Rounds in which every site delivered; a stage for each delivery of the second, a version for each round."""
    owner = await get_federation(session, "big", lock=True)
    for row in await add_rounds(session, "big", owner.config, "0" * 64, rounds):
        row.state, number = "completed", row.number
        version = {"version": number, "round_id": row.id, "parent_version": number - 1 or None}
        await session.execute(
            insert(ModelVersionRow).values(
                federation_id="big",
                state_key="none",
                state_sha256="0" * 64,
                metrics={"rsum": 100.0 + number},
                **version,
            )
        )
    owner.current_version = rounds
    await session.flush()
    now = utc_now()
    await session.execute(update(RoundRow).values(started_at=now - timedelta(minutes=5), finished_at=now))
    ids = (await session.scalars(select(RoundRow.id).order_by(RoundRow.number))).all()
    names = [f"site-{number:05}" for number in range(sites)]
    seen = {"federation_id": "big", "kind": "image", "enrolled_at": now, "last_seen_at": now}
    await session.execute(insert(ClientRow), [{"id": name, "name": name} | seen for name in names])
    told = {"state": "delivered", "settled_at": now, "metrics": _TOLD, "bytes_up": 100, "bytes_down": 200}
    for each in ids:
        parts = [{"round_id": each, "client_id": name, "position": place} for place, name in enumerate(names)]
        await session.execute(insert(ParticipationRow), [part | told for part in parts])
        event = {"federation_id": "big", "kind": "round.completed", "actor": "aggregator", "data": {}}
        await session.execute(insert(EventRow), [event] * 10)
    fold = {"kind": "fold", "modality": "image", "state": "done", "finished_at": now, "inputs": {}, "round_id": ids[1]}
    await session.execute(insert(StageRow), [{"position": place} | fold for place in range(sites)])
