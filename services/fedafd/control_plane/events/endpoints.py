"""HTTP of the audit log. One address, two forms: a page of JSON, or with `Accept: text/event-stream` a stream."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.callers import Admin, Caller, Viewer
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.events.schemas import Event, EventPage
from fedafd.control_plane.events.stream import event_stream
from fedafd.control_plane.names import FederationName
from fedafd.control_plane.paging import Limit, decode_number, encode_cursor, page_of
from fedafd.control_plane.problems import problem_responses
from fedafd.domain.errors import InvalidRequestError
from fedafd.domain.kinds import Role
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.event_repository import last_event_id as _newest
from fedafd.persistence.federation_repository import get_federation

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["events"])

_LARGEST_ID = 2**63 - 1
_END = "end"
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page; or a stream, where `Accept` asks for `text/event-stream`: each event with its `id`, "
        "its kind as `event`, and as `data` the same JSON as an item of a page; comments as heartbeats.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
}

EventCursor = Annotated[
    str | None,
    Query(
        max_length=200,
        description="`next_cursor` or `end_cursor` of a page, to go on after it; `end` for nothing but what happens "
        "from now on; leave it out to start with the oldest.",
    ),
]
LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="Of a stream: go on after this event. Browsers send it by themselves."),
]


@router.get(
    "/federations/{federation}/events",
    response_model=EventPage,
    responses=_STREAM | problem_responses(401, 403, 404, 422),
)
async def get_events(
    federation: FederationName,
    request: Request,
    context: ContextDep,
    caller: Viewer,
    cursor: EventCursor = None,
    limit: Limit = 100,
    last_event_id: LastEventId = None,
    progress: Annotated[
        bool,
        Query(description="Of a stream: also `round.progress`, the open round, and `round.waits`, what it waits for."),
    ] = False,
) -> Response:
    """A federation's audit log, oldest first."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
        after = await _start(session, cursor, last_event_id)
        if not _wants_stream(request):
            return await _page(session, caller, federation, after, limit)
    return event_stream(context, caller, federation, after, progress=progress)


@router.get("/events", response_model=EventPage, responses=_STREAM | problem_responses(401, 403, 422))
async def get_all_events(
    request: Request,
    context: ContextDep,
    caller: Admin,
    cursor: EventCursor = None,
    limit: Limit = 100,
    last_event_id: LastEventId = None,
) -> Response:
    """The audit log of all federations and of API keys, oldest first; for admins."""
    async with context.database.snapshot() as session:
        after = await _start(session, cursor, last_event_id)
        if not _wants_stream(request):
            return await _page(session, caller, None, after, limit)
    return event_stream(context, caller, None, after, progress=False)


def _wants_stream(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


async def _start(session: AsyncSession, cursor: str | None, last_event_id: str | None) -> int:
    """The id to go on after. Raises InvalidRequestError for one that is not of this log."""
    if last_event_id is None and cursor != _END:
        return decode_number(cursor, _LARGEST_ID)
    newest = await _newest(session)
    if last_event_id is None:
        return newest
    if not last_event_id.isdecimal() or len(last_event_id) > 19 or int(last_event_id) > newest:
        raise InvalidRequestError(
            f"Last-Event-ID {last_event_id[:40]!r}: is not one of this log; leave it out to start anew"
        )
    return int(last_event_id)


async def _page(session: AsyncSession, caller: Caller, federation: str | None, after: int, limit: int) -> Response:
    rows = await events_after(session, federation, after, limit + 1)
    page = page_of(rows, limit, lambda row: row.id, partial(Event.of, addresses=caller.role is Role.ADMIN))
    end = page.items[-1].id if page.items else after
    answer = EventPage(items=page.items, next_cursor=page.next_cursor, end_cursor=encode_cursor(end) if end else None)
    return Response(answer.model_dump_json(), media_type="application/json")
