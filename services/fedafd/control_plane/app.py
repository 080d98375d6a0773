"""The FastAPI application, and the entry of the control plane process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from fedafd.control_plane import federations, models, rounds
from fedafd.control_plane.context import Context
from fedafd.control_plane.problems import add_problem_handlers
from fedafd.control_plane.settings import ControlPlaneSettings, load_settings
from fedafd.domain.errors import ConfigurationError, FedafdError
from fedafd.messaging.wakeups import WakeupPublisher
from fedafd.persistence.api_key_repository import ensure_admin_key
from fedafd.persistence.database import Database
from fedafd.persistence.migrate import check_schema
from fedafd.storage import open_store
from fedafd.telemetry.logging import configure, get_logger
from fedafd.telemetry.metrics import Metrics

__all__ = ["create_app", "main"]

_log = get_logger(__name__)


def create_app(settings: ControlPlaneSettings) -> FastAPI:
    """The application; it connects when it starts."""
    database = Database(settings.database_url.get_secret_value())
    context = Context(
        database=database,
        store=open_store(settings.store),
        changed=_publisher(settings),
        invitation_lifetime=timedelta(hours=settings.invitation_hours),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await check_schema(database)
        key = settings.first_admin_key()
        if key:
            async with database.transaction() as session:
                await ensure_admin_key(session, key)
        yield
        await database.close()

    app = FastAPI(title="FedAFD control plane", version="1", lifespan=lifespan)
    app.state.context = context
    add_problem_handlers(app)
    for part in (federations, rounds, models):
        app.include_router(part.router)
    _add_probes(app, context, Metrics("control_plane"))
    return app


def _publisher(settings: ControlPlaneSettings) -> Callable[[str], None]:
    if settings.redis_url is None:
        return lambda _: None
    return WakeupPublisher(settings.redis_url.get_secret_value()).publish


def _add_probes(app: FastAPI, context: Context, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["probes"])
    async def healthz() -> dict[str, str]:
        """The process runs."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["probes"])
    async def readyz() -> JSONResponse:
        """Database and object store answer."""
        checks = {"database": "ok", "store": "ok"}
        try:
            await asyncio.wait_for(context.database.ping(), 5)
        except Exception as error:
            checks["database"] = f"{type(error).__name__}: {error}"
        try:
            await asyncio.wait_for(asyncio.to_thread(context.store.ping), 5)
        except Exception as error:
            checks["store"] = f"{type(error).__name__}: {error}"
        ready = all(value == "ok" for value in checks.values())
        return JSONResponse(checks, 200 if ready else 503)

    @app.get("/metrics", tags=["probes"], response_class=Response)
    async def exposition() -> Response:
        """Prometheus metrics."""
        return Response(metrics.exposition(), media_type=metrics.content_type)


def main() -> int:
    """Run the control plane; returns its exit code."""
    try:
        settings = load_settings()
        configure("control-plane", level=settings.log_level)
        app = create_app(settings)
    except ConfigurationError as error:
        sys.stderr.write(f"control-plane: {error}\n")
        return 2
    except FedafdError as error:
        sys.stderr.write(f"control-plane: {error}\n")
        return 1
    _log.info("control_plane.starting", host=settings.host, port=settings.port)
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None, access_log=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
