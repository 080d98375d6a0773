"""Home says how it is and what to do, in words; REST and the command line say the same."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tests.control_plane.dashboard.browsing import visitor
from tests.control_plane.rest import Rest

from fedafd.persistence.lease_repository import COORDINATOR_LEASE, acquire_lease


async def lead(rest: Rest) -> None:
    """An aggregator is there."""
    async with rest.context.database.transaction() as session:
        await acquire_lease(session, COORDINATOR_LEASE, "a", timedelta(minutes=5))


async def test_an_empty_service_says_how_to_begin(rest: Rest) -> None:
    page = await (await visitor(rest)).page("/")
    assert "no aggregator is running" in page.lower()
    assert "<code>fedafd federation create -f federation.yaml</code>" in page
    assert "<code>fedafd bootstrap --name NAME</code>" in page


async def test_home_and_rest_tell_the_same_of_each_federation(rest: Rest, tmp_path: Path) -> None:
    await lead(rest)
    await rest.federation()
    viewer = await visitor(rest, "viewer")
    status = (await rest.http.get("/status")).json()
    assert (status["level"], status["findings"][0]["cause"]) == ("waiting", "no-public-set")
    assert "trial: has no public set yet" in await viewer.page("/")
    await rest.public_set(tmp_path)
    await rest.enrol("north")
    await rest.publish(2)
    page = await viewer.page("/")
    assert "1 of 1" in page
    assert "round 2" in page
    assert '<a href="/federations/trial/models">2</a>' in page
    assert "Keys</a>" not in page
    await rest.http.post("/federations/trial/rounds", json={"count": 2})
    page = await viewer.page("/")
    assert '<a href="/federations/trial/rounds/3">3</a>' in page
    assert "and 1 queued" in page


async def test_a_store_that_is_away_is_told_with_its_reason(rest: Rest, tmp_path: Path) -> None:
    await lead(rest)
    store = tmp_path / "store"
    moved = store.rename(tmp_path / "elsewhere")
    store.write_text("no folder")
    try:
        status = (await rest.http.get("/status")).json()
    finally:
        store.unlink()
        moved.rename(store)
    assert (status["level"], status["findings"][0]["cause"]) == ("trouble", "store")


async def test_what_a_site_or_an_operator_named_is_text_and_no_markup(rest: Rest) -> None:
    await lead(rest)
    await rest.http.put("/drain", json={"reason": "<script>alert(1)</script>"})
    page = await (await visitor(rest)).page("/")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
