"""The page that answers whether the federation helps each site, and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.charts import chart
from fedafd.control_plane.dashboard.federation import federation_page
from fedafd.control_plane.dashboard.gains import OTHERS, VIEWS, SiteGain, site_gains, summary
from fedafd.control_plane.dashboard.routing import page_router
from fedafd.control_plane.dashboard.visits import Visitor
from fedafd.control_plane.names import NAME_PATTERN, FederationName
from fedafd.persistence.client_repository import list_clients
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import newest_versions
from fedafd.persistence.participation_repository import delivered_by

__all__ = ["router"]

router = page_router()

_SITES = 10
_MOST_ROUNDS = 200
_BATCH = 100
_ALL_ROUNDS = 10**9
_COLUMNS = ("round", "site", "kind", "samples", "bytes_up", "bytes_down", "metric", "value")
_Series = dict[str, list[tuple[int, float, float | None]]]


@router.get("/federations/{federation}/benefit")
async def benefit_page(
    request: Request,
    federation: FederationName,
    context: ContextDep,
    visitor: Visitor,
    after: Annotated[str, Query(pattern=NAME_PATTERN + "|^$", max_length=63)] = "",
) -> Response:
    """Each site's models by round, with errors, and the server's recall."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        clients = await list_clients(session, federation, after, _SITES + 1)
        parts = await delivered_by(session, [each.id for each in clients[:_SITES]], _MOST_ROUNDS)
        versions = await newest_versions(session, federation, None, _MOST_ROUNDS)
    sites = site_gains(clients[:_SITES], parts)
    recall: _Series = {
        "federated": [(row.version, row.metrics["rsum"], None) for row in reversed(versions) if "rsum" in row.metrics]
    }
    return federation_page(
        request,
        "benefit.html",
        visitor,
        owner,
        sites=[(site, chart(_series(site))) for site in sites],
        words=summary(sites),
        views=VIEWS,
        others=OTHERS,
        server=chart(recall),
        more=clients[_SITES - 1].name if len(clients) > _SITES else None,
        is_first=not after,
    )


@router.get("/federations/{federation}/benefit.csv")
async def benefit_csv(federation: FederationName, context: ContextDep, _: Visitor) -> Response:
    """Every metric that sites shared, one a line."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
    headers = {"Content-Disposition": f'attachment; filename="{federation}-metrics.csv"'}
    return StreamingResponse(_lines(context, federation), headers=headers, media_type="text/csv; charset=utf-8")


def _series(site: SiteGain) -> _Series:
    """An error bar is that of the model's difference to the personalized one."""
    found: _Series = {}
    for view in VIEWS:
        found[view] = [
            (each.round_number, each.values[view], each.gains[view].error if view in each.gains else None)
            for each in site.points
            if view in each.values
        ]
    return found


async def _lines(context: Context, federation: str) -> AsyncIterator[str]:
    yield _line(_COLUMNS)
    after = ""
    while True:
        async with context.database.snapshot() as session:
            clients = await list_clients(session, federation, after, _BATCH)
            parts = await delivered_by(session, [each.id for each in clients], _ALL_ROUNDS)
        if not clients:
            return
        of = {each.id: each for each in clients}
        for part, number in parts:
            client = of[part.client_id]
            start = (number, client.name, client.kind, part.num_private_samples, part.bytes_up, part.bytes_down)
            for name, value in sorted((part.metrics or {}).items()):
                yield _line((*start, name, value))
        after = clients[-1].name


def _line(cells: tuple[object, ...]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
