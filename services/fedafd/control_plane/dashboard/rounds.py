"""A federation's rounds, one round as it goes or as it went, and the forms that start and cancel them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response

from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.dashboard.federation import federation_page
from fedafd.control_plane.dashboard.routing import page_router, see
from fedafd.control_plane.dashboard.timeline import seconds_left, time_left, timeline
from fedafd.control_plane.dashboard.visits import OperatorForm, Visitor
from fedafd.control_plane.names import FederationName, RoundNumber
from fedafd.control_plane.paging import MAX_INTEGER
from fedafd.control_plane.rounds import service
from fedafd.control_plane.status.facts import gather
from fedafd.control_plane.status.findings import decide
from fedafd.domain.errors import InvalidRequestError
from fedafd.domain.states import OPEN_ROUND_STATES, RoundState
from fedafd.persistence.event_repository import round_changes
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import utc_now
from fedafd.persistence.participation_repository import list_participations
from fedafd.persistence.round_repository import get_round_by_number, newest_rounds, queued_round_numbers
from fedafd.persistence.stage_repository import list_stages

__all__ = ["router"]

router = page_router()

_PAGE = 25
_SITES = 100
_EARLIER = 5
"""Rounds before an open one, of which the last that completed says how long it may take."""
_MOST_AT_ONCE = 1000


@router.get("/federations/{federation}")
async def rounds_page(
    request: Request,
    federation: FederationName,
    context: ContextDep,
    visitor: Visitor,
    before: Annotated[int | None, Query(ge=1, le=MAX_INTEGER)] = None,
) -> Response:
    """What the federation waits for, and its rounds, newest first."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        rows = await newest_rounds(session, federation, before, _PAGE + 1)
        queued = await queued_round_numbers(session, federation)
    status = decide(await gather(context, {federation}))
    return federation_page(
        request,
        "rounds.html",
        visitor,
        owner,
        finding=next(finding for finding in status.findings if finding.federation == federation),
        rounds=rows[:_PAGE],
        queued=queued,
        older=rows[_PAGE - 1].number if len(rows) > _PAGE else None,
        is_first=before is None,
    )


@router.post("/federations/{federation}/rounds")
async def start_rounds(federation: FederationName, context: ContextDep, form: OperatorForm) -> Response:
    """Queue rounds."""
    text = form.text("count")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _MOST_AT_ONCE:
        raise InvalidRequestError(f"number of rounds: give a number from 1 to {_MOST_AT_ONCE}")
    async with context.database.transaction() as session:
        await service.start(session, federation, int(text), form.caller.actor)
    context.wakeups.changed(federation)
    return see(f"/federations/{federation}")


@router.get("/federations/{federation}/rounds/{number}")
async def round_page(
    request: Request,
    federation: FederationName,
    number: RoundNumber,
    context: ContextDep,
    visitor: Visitor,
    first: Annotated[int, Query(ge=0, le=MAX_INTEGER)] = 0,
) -> Response:
    """One round; `first` is the place in the cohort that the sites are shown from."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        row = await get_round_by_number(session, federation, number)
        changes = await round_changes(session, row)
        stages = await list_stages(session, row.id)
        parts = await list_participations(session, row.id)
        is_open = RoundState(row.state) in OPEN_ROUND_STATES
        earlier = await newest_rounds(session, federation, number, _EARLIER) if is_open else []
    now = utc_now()
    drawn = timeline(row, changes, stages, parts, now)
    return federation_page(
        request,
        "round.html",
        visitor,
        owner,
        round=row,
        is_open=is_open,
        time_left=time_left(row, earlier, now),
        drawn=drawn,
        sites=drawn.sites[first : first + _SITES] if drawn else [],
        first=first,
        page_size=_SITES,
        left=seconds_left(row, now),
    )


@router.post("/federations/{federation}/rounds/{number}/cancel")
async def cancel_round(
    federation: FederationName, number: RoundNumber, context: ContextDep, form: OperatorForm
) -> Response:
    """Cancel a round that is not over."""
    async with context.database.transaction() as session:
        await service.cancel(session, federation, number, form.caller)
    context.wakeups.changed(federation)
    return see(f"/federations/{federation}/rounds/{number}")
