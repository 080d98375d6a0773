"""One version of the global model with its card, and two of them side by side, before one becomes the current one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import Query, Request, Response

from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.cards import LONGEST_CARD, card_html
from fedafd.control_plane.dashboard.federation import federation_page
from fedafd.control_plane.dashboard.routing import page_router
from fedafd.control_plane.dashboard.visits import Visitor
from fedafd.control_plane.models.reads import ModelRead
from fedafd.control_plane.names import FederationName, RoundNumber
from fedafd.control_plane.paging import MAX_INTEGER
from fedafd.control_plane.turns import in_store
from fedafd.domain.config.differences import differences
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import find_version, get_version, list_files, newest_versions
from fedafd.persistence.models import ModelFileRow, ModelVersionRow
from fedafd.persistence.round_repository import get_round

__all__ = ["router"]

router = page_router()

_CARD = "README.md"
_LINEAGE = 200
"""Versions that a lineage is followed through."""
_SHOWN = 12
_Number = Annotated[int, Query(ge=1, le=MAX_INTEGER)]


@router.get("/federations/{federation}/models/compare")
async def compare_page(
    request: Request,
    federation: FederationName,
    context: ContextDep,
    visitor: Visitor,
    one: _Number,
    other: _Number,
) -> Response:
    """Metrics, configuration and lineage of two versions; `other` is what `one` would be replaced by."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        pair = [await get_version(session, federation, number) for number in (one, other)]
        rounds = [await get_round(session, row.round_id) for row in pair]
        current = await find_version(session, federation, owner.current_version)
        lineages = _lineages(await newest_versions(session, federation, max(one, other) + 1, _LINEAGE), pair)
    return federation_page(
        request,
        "compare.html",
        visitor,
        owner,
        one=pair[0],
        other=pair[1],
        names=_metric_names(pair),
        changes=differences(rounds[0].config, rounds[1].config),
        same_public_set=rounds[0].public_set_sha256 == rounds[1].public_set_sha256,
        lineages=lineages,
        goes_back=current is not None and current.parent_version == other and current.version == one,
    )


@router.get("/federations/{federation}/models/{version}")
async def version_page(
    request: Request, federation: FederationName, version: RoundNumber, context: ContextDep, visitor: Visitor
) -> Response:
    """A version with its metrics, its lineage, its files and its card."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        row = await get_version(session, federation, version)
        of_round = await get_round(session, row.round_id)
        files = [] if row.files_removed_at else await list_files(session, row)
        (lineage,) = _lineages(await newest_versions(session, federation, version + 1, _LINEAGE), [row])
    card = next((file for file in files if file.path == _CARD and file.size_bytes <= LONGEST_CARD), None)
    if card is not None:
        read = ModelRead(visitor.caller, federation, None, version, _CARD)
        await context.model_reads.audit(context.database, read)
    return federation_page(
        request,
        "version.html",
        visitor,
        owner,
        row=row,
        of_round=of_round,
        files=files,
        lineage=lineage,
        names=_metric_names([row]),
        card=None if card is None else card_html(await _text(context, card)),
    )


async def _text(context: Context, file: ModelFileRow) -> str:
    return (await in_store(context.store.get, file.key)).decode("utf-8", "replace")


def _metric_names(rows: Sequence[ModelVersionRow]) -> list[str]:
    """Of all that were measured, rsum first; an error stands beside its metric."""
    names = {name for row in rows for name in row.metrics if not name.endswith("_standard_error")}
    return sorted(names, key=lambda name: (name != "rsum", name))


def _lineages(known: Sequence[ModelVersionRow], rows: Sequence[ModelVersionRow]) -> list[list[int]]:
    """Each one's versions, back to the first or to the last one that is shown."""
    parents: Mapping[int, int | None] = {row.version: row.parent_version for row in known}
    lineages = []
    for row in rows:
        line, at = [row.version], row.parent_version
        while at is not None and len(line) < _SHOWN:
            line.append(at)
            at = parents.get(at)
        lineages.append(line)
    return lineages
