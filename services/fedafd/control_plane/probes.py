"""Probes: does the process run, can it serve, and its metrics. They need no key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from fedafd.control_plane.context import Context, ContextDep
from fedafd.domain.errors import FedafdError
from fedafd.persistence.migrate import schema_problem
from fedafd.telemetry.logging import get_logger

__all__ = ["Health", "Readiness", "router"]

router = APIRouter(tags=["probes"])
_SECONDS = 5.0
_log = get_logger(__name__)


class Health(BaseModel):
    """The process runs."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """What the process needs: `ok`, or what is wrong."""

    database: str
    schema_revision: str = Field(description="Whether the database is at the revision that this program needs.")
    store: str
    redis: str = Field(description="`not configured` where there is none.")


@router.get("/healthz")
async def healthz() -> Health:
    """The process runs."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Something that it needs is away."}})
async def readyz(
    context: ContextDep,
    response: Response,
    serving: Annotated[
        bool, Query(description="503 only for what no request is answered without: the database.")
    ] = False,
) -> Readiness:
    """Database, its schema, object store and Redis answer, and the store takes writes."""
    database, store, cache = await asyncio.gather(
        _checked(context.database.ping()),
        _checked(asyncio.to_thread(_use_store, context)),
        _checked(_ping_redis(context)) if context.redis else _not_configured(),
    )
    schema = await _schema(context) if database == "ok" else "unknown"
    ready = (database, schema) == ("ok", "ok")
    if not serving:
        ready = ready and store == "ok" and cache in ("ok", "not configured")
    response.status_code = 200 if ready else 503
    return Readiness(database=database, schema_revision=schema, store=store, redis=cache)


async def _schema(context: Context) -> str:
    try:
        return await schema_problem(context.database, newer_is_fine=True) or "ok"
    except Exception as error:
        return _words(error)


def _use_store(context: Context) -> None:
    context.store.ping()
    context.writes.check()


async def _ping_redis(context: Context) -> None:
    if context.redis is not None:
        await context.redis.echo("ready")


async def _not_configured() -> str:
    return "not configured"


async def _checked(work: Awaitable[object]) -> str:
    try:
        async with asyncio.timeout(_SECONDS):
            await work
    except Exception as error:
        return _words(error)
    return "ok"


def _words(error: Exception) -> str:
    """What strangers may read: our own words, and no text of a library's, which may name hosts, users and files."""
    name = type(error).__name__
    if isinstance(error, FedafdError) and str(error):
        return f"{name}: {str(error).splitlines()[0]}"
    _log.warning("probe.failed", reason=f"{name}: {error}")
    return f"{name}: no answer; the log has the reason"
