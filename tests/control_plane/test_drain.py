"""Drain mode over REST: who may, and what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from fedafd.control_plane.app import create_app
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.persistence.migrate import migrate
from fedafd.storage import StoreSettings

KEY = "fedafd-key.drain-test"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    url = f"sqlite:///{tmp_path}/drain.db"
    await asyncio.to_thread(migrate, url)
    settings = ControlPlaneSettings(
        database_url=url,
        store=StoreSettings(url=str(tmp_path / "store")),
        admin_key=KEY,
    )
    service = create_app(settings)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(service),
            base_url="http://test/v1",
            headers={"Authorization": f"Bearer {KEY}"},
        ) as client,
    ):
        yield client


async def test_drain_and_resume_may_be_repeated_and_say_who_and_why(api: httpx.AsyncClient) -> None:
    assert (await api.get("/drain")).json() == {
        "draining": False, "since": None, "actor": None, "reason": None, "running": []
    }  # fmt: skip
    first = (await api.put("/drain", json={"reason": "upgrade"})).json()
    assert (first["draining"], first["reason"], first["actor"]) == (True, "upgrade", "api-key:admin")
    assert (await api.put("/drain", json={"reason": "again"})).json() == first == (await api.get("/drain")).json()
    for _ in range(2):
        assert (await api.delete("/drain")).json()["draining"] is False
    kinds = [event["kind"] for event in (await api.get("/events")).json()["items"]]
    assert [kind for kind in kinds if kind.startswith("service.")] == ["service.drained", "service.resumed"]


async def test_only_an_admin_drains(api: httpx.AsyncClient) -> None:
    made = (await api.post("/api-keys", json={"name": "op", "role": "operator"})).json()
    operator = {"Authorization": f"Bearer {made['secret']}"}
    assert (await api.get("/drain", headers=operator)).status_code == 200
    assert (await api.put("/drain", json={}, headers=operator)).status_code == 403
    assert (await api.delete("/drain", headers=operator)).status_code == 403
