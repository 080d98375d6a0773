"""The page that answers whether the federation helps each site and what it costs, and its figures' numbers as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.federation import federation_page
from fedafd.control_plane.dashboard.figures import (
    cost_figures,
    recalls_figure,
    server_figure,
    site_figure,
    weight_figure,
)
from fedafd.control_plane.dashboard.gains import OTHERS, VIEWS, site_gains, summary
from fedafd.control_plane.dashboard.routing import page_router
from fedafd.control_plane.dashboard.visits import Visitor
from fedafd.control_plane.names import NAME_PATTERN, FederationName
from fedafd.persistence.client_repository import get_client, list_clients
from fedafd.persistence.cost_repository import round_costs
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import list_versions, newest_versions
from fedafd.persistence.models import ClientRow
from fedafd.persistence.participation_repository import delivered_by

__all__ = ["router"]

router = page_router()

_SITES = 10
_MOST_ROUNDS = 200
_BATCH = 100
_ALL_ROUNDS = 10**9
_SITE_COLUMNS = ("round", "site", "kind", "samples", "bytes_up", "bytes_down", "metric", "value")
_ROUND_COLUMNS = (
    "round", "state", "started_at", "finished_at", "seconds", "invited", "delivered", "bytes_up", "bytes_down"
)  # fmt: skip


@router.get("/federations/{federation}/benefit")
async def benefit_page(
    request: Request,
    federation: FederationName,
    context: ContextDep,
    visitor: Visitor,
    after: Annotated[str, Query(pattern=NAME_PATTERN + "|^$", max_length=63)] = "",
) -> Response:
    """Each site's models by round, with errors, the server's recalls, and what rounds cost."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        clients = await list_clients(session, federation, after, _SITES + 1)
        parts = await delivered_by(session, [client.id for client in clients[:_SITES]], _MOST_ROUNDS)
        versions = (await newest_versions(session, federation, None, _MOST_ROUNDS))[::-1]
        costs = (await round_costs(session, federation, None, _MOST_ROUNDS))[::-1]
    sites = site_gains(clients[:_SITES], parts, {cost.number: cost.collecting_at for cost in costs})
    server = [server_figure(versions, "rsum"), recalls_figure(versions)]
    return federation_page(
        request,
        "benefit.html",
        visitor,
        owner,
        sites=[(site, site_figure(site), weight_figure(site)) for site in sites],
        words=summary(sites),
        views=VIEWS,
        others=OTHERS,
        server=[figure for figure in server if figure],
        costs=cost_figures(costs),
        num_rounds=len(costs),
        seconds=sum(cost.seconds for cost in costs),
        bytes_moved=sum(cost.bytes_up + cost.bytes_down for cost in costs),
        more=clients[_SITES - 1].name if len(clients) > _SITES else None,
        is_first=not after,
    )


@router.get("/federations/{federation}/benefit.csv")
async def benefit_csv(
    federation: FederationName,
    context: ContextDep,
    _: Visitor,
    site: Annotated[str, Query(pattern=NAME_PATTERN + "|^$", max_length=63)] = "",
) -> Response:
    """Every metric that sites shared, one a line; with `site` those of one."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
        only = [await get_client(session, federation, site)] if site else None
    return _file(f"{federation}-{site or 'metrics'}.csv", _site_lines(context, federation, only))


@router.get("/federations/{federation}/benefit/versions.csv")
async def versions_csv(federation: FederationName, context: ContextDep, _: Visitor) -> Response:
    """Every metric of every version of the global model, one a line."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
    return _file(f"{federation}-versions.csv", _version_lines(context, federation))


@router.get("/federations/{federation}/benefit/rounds.csv")
async def rounds_csv(federation: FederationName, context: ContextDep, _: Visitor) -> Response:
    """What each round that is over cost."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
    return _file(f"{federation}-rounds.csv", _round_lines(context, federation))


async def _site_lines(context: Context, federation: str, only: Sequence[ClientRow] | None) -> AsyncIterator[str]:
    yield _line(_SITE_COLUMNS)
    after = ""
    while True:
        async with context.database.snapshot() as session:
            clients = only or await list_clients(session, federation, after, _BATCH)
            parts = await delivered_by(session, [client.id for client in clients], _ALL_ROUNDS)
        if not clients:
            return
        of = {client.id: client for client in clients}
        for part, number in parts:
            client = of[part.client_id]
            start = (number, client.name, client.kind, part.num_private_samples, part.bytes_up, part.bytes_down)
            for name, value in sorted((part.metrics or {}).items()):
                yield _line((*start, name, value))
            for modality, contribution in sorted((part.contributions or {}).items()):
                for name, value in contribution.items():
                    yield _line((*start, f"ensemble_{name}/{modality}", "" if value is None else float(value)))
        if only:
            return
        after = clients[-1].name


async def _version_lines(context: Context, federation: str) -> AsyncIterator[str]:
    yield _line(("version", "from_version", "made_at", "metric", "value"))
    after = 0
    while True:
        async with context.database.snapshot() as session:
            rows = await list_versions(session, federation, after, _BATCH)
        for row in rows:
            for name, value in sorted(row.metrics.items()):
                yield _line((row.version, row.parent_version, row.created_at.isoformat(), name, value))
        if not rows:
            return
        after = rows[-1].version


async def _round_lines(context: Context, federation: str) -> AsyncIterator[str]:
    yield _line(_ROUND_COLUMNS)
    before = None
    while True:
        async with context.database.snapshot() as session:
            costs = await round_costs(session, federation, before, _BATCH)
        for cost in costs:
            times = (cost.started_at.isoformat(), cost.finished_at.isoformat(), cost.seconds)
            counts = (cost.invited, cost.delivered, cost.bytes_up, cost.bytes_down)
            yield _line((cost.number, cost.state, *times, *counts))
        if not costs:
            return
        before = costs[-1].number


def _file(name: str, lines: AsyncIterator[str]) -> StreamingResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines, headers=headers, media_type="text/csv; charset=utf-8")


def _line(cells: tuple[object, ...]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
