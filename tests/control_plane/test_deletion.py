"""A deleted federation leaves nothing but its audit log and its public set; no other one is touched."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import func, select
from tests.control_plane.rest import Rest, problem

from fedafd.aggregator.sweeping import remove_deleted
from fedafd.persistence.models import Base, EventRow
from fedafd.storage import ObjectInfo

F = "/federations/trial"


async def whole(rest: Rest, folder: Path) -> None:
    """A federation with a site, versions, a personalized model and all that rounds write, beside another one."""
    await rest.federation()
    await rest.federation("other")
    await rest.public_set(folder)
    await rest.enrol("north")
    await rest.enrol("east", "other")
    await rest.publish(2)
    await rest.share("north")
    rest.context.store.put("federations/trial/rounds/1/left", b"left behind")
    rest.context.store.put("federations/other/rounds/1/kept", b"of another")


async def rows(rest: Rest) -> dict[str, int]:
    async with rest.context.database.snapshot() as session:
        return {
            table.name: await session.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
        }


def objects(rest: Rest) -> list[ObjectInfo]:
    return list(rest.context.store.list("federations/"))


async def test_all_of_a_federation_goes_and_the_audit_log_and_the_public_set_stay(rest: Rest, tmp_path: Path) -> None:
    await whole(rest, tmp_path)
    before, sets = await rows(rest), list(rest.context.store.list("public-sets/"))
    told = (await rest.http.delete(F, params={"dry_run": "true"})).json()
    assert (told["deleted"], told["clients"], told["rounds"], told["versions"]) == (False, 1, 2, 2)
    assert told["personalized_models"] == 1
    assert told["size_bytes"] > 0
    assert await rows(rest) == before, "a dry run changes nothing"
    assert (await rest.http.delete(F)).json() == told | {"deleted": True}
    problem(await rest.http.get(F), 404, "not-found")
    problem(await rest.http.delete(F), 404, "not-found")
    left = await rows(rest)
    assert {name for name, count in left.items() if count} == {
        "federations",
        "clients",
        "events",
        "api_keys",
        "removals",
        "session_secrets",
    }
    assert left["events"] == before["events"] + 1
    async with rest.context.database.snapshot() as session:
        events = (await session.scalars(select(EventRow).order_by(EventRow.id))).all()
    assert {each.federation_id for each in events if each.data.get("federation") == "trial"} == {None}
    assert {"federation.created", "public_set.changed"} <= {
        each.kind for each in events if each.data.get("federation") == "trial"
    }
    assert (events[-1].kind, events[-1].actor) == ("federation.deleted", "api-key:admin")
    taken = await rest.http.post("/federations", json={"name": "trial", "preset": "small"})
    assert "still to remove its objects" in problem(taken, 409, "conflict")
    await remove_deleted(rest.context.database, rest.context.store)
    assert [each.key for each in objects(rest)] == ["federations/other/rounds/1/kept"]
    assert list(rest.context.store.list("public-sets/")) == sets
    await rest.federation()
    assert (await rest.http.get(f"{F}/rounds")).json()["items"] == []


async def test_a_federation_with_an_open_round_stays(rest: Rest, tmp_path: Path) -> None:
    await whole(rest, tmp_path)
    await rest.http.post(f"{F}/rounds", json={})
    before = await rows(rest)
    for params in ({}, {"dry_run": "true"}):
        assert "round 3 is open; cancel it" in problem(await rest.http.delete(F, params=params), 409, "conflict")
    assert await rows(rest) == before


async def test_only_an_admin_deletes_a_federation(rest: Rest) -> None:
    await rest.federation()
    for role in ("viewer", "operator"):
        problem(await rest.http.delete(F, headers=await rest.key(f"a-{role}", role)), 403, "forbidden")
    assert (await rest.http.get(F)).status_code == 200
