"""The REST API in this process: the real application on a real database, with what tests put into it."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.routing import _IncludedRouter
from starlette.routing import BaseRoute
from tests.databases import migrated

from fedafd.control_plane.app import create_app
from fedafd.control_plane.context import Context
from fedafd.control_plane.patience import PatientProtocol
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ParticipantKind
from fedafd.persistence.client_repository import enrol_client, invite_client
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import add_files
from fedafd.persistence.models import ModelVersionRow, PersonalizedModelRow
from fedafd.persistence.round_repository import add_rounds
from fedafd.storage import StoreSettings

KEY = "fedafd-key.test-of-rest"
FEDERATION = {"name": "trial", "preset": "small"}

_build = _IncludedRouter._build_effective_context
_built: dict[int, tuple[BaseRoute, Any, Any]] = {}


def _build_once(router: _IncludedRouter, route: BaseRoute) -> Any:
    """What FastAPI works out of a route for each application anew: a third of a second for all of ours.

    The application itself is in it for overridden dependencies only, and no test overrides one.
    """
    asked = dataclasses.replace(router.include_context, dependency_overrides_provider=None)
    known = _built.get(id(route))
    if known is None or known[0] is not route or known[1] != asked:
        known = _built[id(route)] = route, asked, _build(router, route)
    return known[2]


_IncludedRouter._build_effective_context = _build_once  # type: ignore[assignment, method-assign]


@dataclass
class Rest:
    app: FastAPI
    http: httpx.AsyncClient
    url: str = ""

    @property
    def context(self) -> Context:
        context: Context = self.app.state.context
        return context

    async def key(self, name: str, role: str) -> dict[str, str]:
        """Headers of a new key."""
        made = await self.http.post("/api-keys", json={"name": name, "role": role})
        assert made.status_code == 201, made.text
        return {"Authorization": f"Bearer {made.json()['secret']}"}

    async def federation(self, name: str = "trial") -> None:
        made = await self.http.post("/federations", json=FEDERATION | {"name": name})
        assert made.status_code == 201, made.text

    async def public_set(self, folder: Path) -> None:
        manifest = write_public_set(
            load_public_data("shapes", None, {"num_train": 8, "num_val": 4, "num_test": 4}), folder / "public"
        )
        for path in (folder / "public").glob("*.parquet"):
            content = path.read_bytes()
            name = hashlib.sha256(content).hexdigest()
            sent = await self.http.put(f"/federations/trial/public-set/shards/{name}", content=content)
            assert sent.status_code == 204, sent.text
        made = await self.http.put("/federations/trial/public-set", content=manifest.to_bytes())
        assert made.status_code == 200, made.text

    async def enrol(self, name: str, federation: str = "trial") -> dict[str, str]:
        """Headers of a client that has enrolled."""
        async with self.context.database.transaction() as session:
            _, token = await invite_client(session, federation, name, ParticipantKind.TEXT, timedelta(hours=1))
            _, credential, _ = await enrol_client(session, token, ParticipantKind.TEXT, "1.0")
        return {"Authorization": f"Bearer {credential}"}

    async def publish(self, count: int, public_set: str = "0" * 64, files: Mapping[str, bytes] | None = None) -> None:
        """Global versions 1 to `count`, each from the one before; the last is current.

        Without `files` each is of two files that are no model.
        """
        async with self.context.database.transaction() as session:
            owner = await get_federation(session, "trial", lock=True)
            for row in await add_rounds(session, "trial", owner.config, public_set, count):
                version = ModelVersionRow(
                    federation_id="trial",
                    version=row.number,
                    round_id=row.id,
                    parent_version=row.number - 1 or None,
                    state_key="none",
                    state_sha256="0" * 64,
                    metrics={"rsum": float(row.number)},
                )
                session.add(version)
                await session.flush()
                made = self._files(f"global-{row.number}") if files is None else self._stored(files)
                await add_files(session, version, made)
                owner.current_version, row.state = row.number, "completed"

    async def share(self, client: str) -> None:
        """A personalized version of a client, of the first round."""
        from fedafd.persistence.client_repository import get_client
        from fedafd.persistence.round_repository import get_round_by_number

        async with self.context.database.transaction() as session:
            owner = await get_client(session, "trial", client)
            round_id = (await get_round_by_number(session, "trial", 1)).id
            version = PersonalizedModelRow(client_id=owner.id, version=1, round_id=round_id, metrics={"acc1": 50.0})
            session.add(version)
            await session.flush()
            await add_files(session, version, self._files(f"of-{client}"))

    def _files(self, name: str) -> dict[str, Any]:
        return self._stored(
            {"config.json": f'{{"name": "{name}"}}'.encode(), "weights/model.safetensors": name.encode() * 1000}
        )

    def _stored(self, contents: Mapping[str, bytes]) -> dict[str, Any]:
        entries = {}
        for path, content in contents.items():
            key = f"federations/trial/test/{sha256_of(content)}"
            self.context.store.put(key, content)
            entries[path] = {"sha256": sha256_of(content), "size_bytes": len(content), "key": key}
        return entries


def settings_for(database_url: str, store: StoreSettings, **more: Any) -> ControlPlaneSettings:
    values: dict[str, Any] = {"database_url": database_url, "store": store, "admin_key": KEY}
    return ControlPlaneSettings(**(values | more))


@asynccontextmanager
async def in_process(settings: ControlPlaneSettings) -> AsyncIterator[Rest]:
    """Without a socket: quick, but streams do not stream."""
    await asyncio.to_thread(migrated, settings.database_url.get_secret_value())
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test/v1", headers=headers) as client,
    ):
        yield Rest(app, client)


@asynccontextmanager
async def listening(settings: ControlPlaneSettings, verify: ssl.SSLContext | bool = True) -> AsyncIterator[Rest]:
    """Behind a real server on a free port of this process; `verify`: whose certificate it must show."""
    await asyncio.to_thread(migrated, settings.database_url.get_secret_value())
    app = create_app(settings)
    own_tls = settings.own_tls()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            log_config=None,
            timeout_graceful_shutdown=2,
            http=PatientProtocol,
            ssl_context_factory=None if own_tls is None else lambda *_: own_tls.context(),
        )
    )
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), running
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"http://127.0.0.1:{port}" if own_tls is None else f"https://localhost:{port}"
    async with httpx.AsyncClient(base_url=f"{url}/v1", headers=headers, timeout=60, verify=verify) as client:
        yield Rest(app, client, url)
    server.should_exit = True
    await running


@contextmanager
def in_a_thread(settings: ControlPlaneSettings, prepare: Callable[[Rest], Awaitable[None]]) -> Iterator[str]:
    """The address of a real server in a thread of its own, with what `prepare` puts into it: for callers that block."""
    ready, stop, url = threading.Event(), asyncio.Event(), ""
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        nonlocal url
        async with listening(settings) as rest:
            await prepare(rest)
            url = rest.url
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(120)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)


def problem(response: httpx.Response, status: int, code: str) -> str:
    """The detail of an answer that must be this problem."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"urn:fedafd:error:{code}"
    assert body["status"] == status
    return str(body["detail"])
