"""A page costs the same statements however many sites and rounds there are, and shows so many of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, insert, select, update
from tests.control_plane.dashboard.browsing import Visitor, visitor
from tests.control_plane.dashboard.test_benefit import TOLD
from tests.control_plane.rest import Rest, in_process, settings_for

from fedafd.persistence.models import ClientRow, EventRow, ParticipationRow, RoundRow, StageRow, utc_now
from fedafd.storage import StoreSettings

F = "/federations/trial"
PAGES = [
    "/", F, f"{F}?before=2", f"{F}/rounds/2", f"{F}/benefit", f"{F}/models", f"{F}/models/2",
    f"{F}/models/compare?one=2&other=1", f"{F}/sites", f"{F}/sites/site-00000", f"{F}/configuration",
    f"{F}/events", "/keys",
]  # fmt: skip
LONGEST_PAGE = 400_000
"""Characters. A page of so many rows as are shown at once, with as many figures."""


async def fill(rest: Rest, sites: int, rounds: int) -> None:
    """Rounds in which every site delivered, a stage for each of their deliveries, and an event."""
    await rest.federation()
    await rest.publish(rounds)
    now = utc_now()
    names = [f"site-{number:05}" for number in range(sites)]
    async with rest.context.database.transaction() as session:
        ids = (await session.scalars(select(RoundRow.id).order_by(RoundRow.number))).all()
        await session.execute(update(RoundRow).values(started_at=now - timedelta(minutes=5), finished_at=now))
        seen = {"federation_id": "trial", "kind": "image", "enrolled_at": now, "last_seen_at": now}
        await session.execute(insert(ClientRow), [{"id": name, "name": name} | seen for name in names])
        told = {"state": "delivered", "settled_at": now, "metrics": TOLD, "bytes_up": 100, "bytes_down": 200}
        parts = [{"client_id": name, "position": place} | told for place, name in enumerate(names)]
        for each in ids:
            await session.execute(insert(ParticipationRow), [{"round_id": each} | part for part in parts])
        folds = [{"position": place, "kind": "fold", "modality": "image"} for place in range(sites)]
        done = {"state": "done", "finished_at": now, "inputs": {}, "round_id": ids[1]}
        await session.execute(insert(StageRow), [fold | done for fold in folds])
        await session.execute(
            insert(EventRow), [{"federation_id": "trial", "kind": "x.y", "actor": "a", "data": {}} for _ in names]
        )


@contextmanager
def counted(rest: Rest) -> Iterator[list[str]]:
    """Statements of pages meanwhile: they only read, and what the process does beside them writes."""
    done: list[str] = []

    def executed(_: object, __: object, statement: str, *___: object) -> None:
        done.append(statement)

    engine = rest.context.database.reading_engine.sync_engine
    event.listen(engine, "before_cursor_execute", executed)
    yield done
    event.remove(engine, "before_cursor_execute", executed)


async def measured(rest: Rest, person: Visitor) -> dict[str, tuple[int, int]]:
    """Of each page its statements and its length, once it has been seen before."""
    found = {}
    for path in PAGES:
        await person.page(path)
        with counted(rest) as statements:
            page = await person.page(path)
        found[path] = (len(statements), len(page))
    return found


@pytest.mark.timeout(300)
async def test_a_page_costs_the_same_with_many_sites_and_rounds(tmp_path: Path) -> None:
    found = []
    for sites, rounds in ((3, 3), (130, 60)):
        place = tmp_path / str(sites)
        place.mkdir()
        settings = settings_for(f"sqlite:///{place}/test.db", StoreSettings(url=str(place / "store")))
        async with in_process(settings) as rest:
            await fill(rest, sites, rounds)
            found.append(await measured(rest, await visitor(rest)))
    few, many = found
    assert {path: count for path, (count, _) in many.items()} == {path: count for path, (count, _) in few.items()}
    assert all(count for count, _ in few.values())
    assert {path: size for path, (_, size) in many.items() if size > LONGEST_PAGE} == {}
