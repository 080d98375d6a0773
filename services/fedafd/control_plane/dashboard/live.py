"""Tells open pages when to look again: at once when something changed, and now and then in any case.

A page that hears it fetches itself and shows what differs, so there is one way to make a page, whether it is fresh or
kept up to date.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from time import monotonic
from typing import Annotated

from fastapi import Query
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncSession
from sse_starlette import ServerSentEvent

from fedafd.control_plane.callers import check_scope
from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.routing import page_router
from fedafd.control_plane.dashboard.visits import Visit, Visitor, visitor_of
from fedafd.control_plane.events.stream import counted_stream, open_round_json, wait_for_change
from fedafd.control_plane.names import NAME_PATTERN
from fedafd.persistence.event_repository import last_event_id

__all__ = ["router"]

router = page_router()

_TICK_SECONDS = 5.0
"""How late the page shows what makes no event, such as an agent that went away."""


@router.get("/live")
async def live(
    context: ContextDep, visitor: Visitor, federation: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None
) -> Response:
    """`changed` each time that the pages of the federation, or without one those of all, may look different."""
    if federation is not None:
        check_scope(visitor.caller, federation)
    return counted_stream(context, visitor.caller, _changes(context, visitor, federation))


async def _changes(context: Context, visitor: Visit, federation: str | None) -> AsyncIterator[ServerSentEvent]:
    only = visitor.caller.federations if federation is None else {federation}
    shown, sent_at = await _look(context, federation, only), monotonic()
    while True:
        change = context.wakeups.next_change(federation)
        await wait_for_change(change, context.stream_poll_seconds)
        async with context.database.snapshot() as session:
            if await visitor_of(context, session, visitor.session) != visitor.caller:
                yield ServerSentEvent("over", event="over")
                return
            fingerprint = await _fingerprint(session, federation, only)
        if fingerprint != shown or monotonic() - sent_at >= _TICK_SECONDS:
            shown, sent_at = fingerprint, monotonic()
            yield ServerSentEvent("changed", event="changed")


async def _look(context: Context, federation: str | None, only: Collection[str] | None) -> tuple[int, str]:
    async with context.database.snapshot() as session:
        return await _fingerprint(session, federation, only)


async def _fingerprint(session: AsyncSession, federation: str | None, only: Collection[str] | None) -> tuple[int, str]:
    return await last_event_id(session, only), await open_round_json(session, federation) if federation else ""
