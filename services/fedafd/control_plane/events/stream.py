"""Server-sent events: the audit log as it happens, and how far open rounds are.

Right with or without Redis: the rows are the truth, a wake-up only makes the next look come at once, and without one it
comes after `stream_poll_seconds`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from fedafd.control_plane.callers import Caller, identify
from fedafd.control_plane.client_proofs import Shown
from fedafd.control_plane.context import Context
from fedafd.control_plane.events.schemas import Event
from fedafd.control_plane.rounds.service import details
from fedafd.control_plane.status.facts import gather
from fedafd.control_plane.status.findings import decide
from fedafd.control_plane.status.schemas import Finding, Level
from fedafd.domain.errors import TooManyRequestsError, UnauthenticatedError
from fedafd.domain.kinds import Role
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.round_repository import first_open_round

__all__ = ["counted_stream", "event_stream", "open_round_json", "wait_for_change"]

_BATCH = 200
_PAUSE_SECONDS = 0.2
"""The shortest time between two reads of the database, however often rows change."""
_WAITS_SECONDS = 5.0
"""The shortest time between two checks of what a round waits for: they ask the store and Redis, too."""


def event_stream(
    context: Context, caller: Caller, federation: str | None, after: int, *, progress: bool
) -> EventSourceResponse:
    """Events with an id above `after`, then each as it happens, until the caller goes or its key is revoked.

    Raises TooManyRequestsError for one stream too many of a caller.

    With `progress` the federation's open round comes too, as `round.progress` without an id, whenever it changed, and
    what it waits for, as `round.waits`.
    """
    return counted_stream(context, caller, _messages(context, caller, federation, after, progress))


def counted_stream(context: Context, caller: Caller, messages: AsyncIterator[ServerSentEvent]) -> EventSourceResponse:
    """These messages as one of the caller's streams. Raises TooManyRequestsError for one too many."""
    if context.open_streams[caller.id] >= context.streams_per_key:
        raise TooManyRequestsError(
            f"{caller.name}: has {context.streams_per_key} event streams open, and may have no more; close some"
        )
    return _CountedStream(
        context.open_streams,
        caller.id,
        messages,
        ping=context.stream_heartbeat_seconds,
        ping_message_factory=lambda: ServerSentEvent(comment="heartbeat"),
        headers={"Cache-Control": "no-store"},
        sep="\n",
    )


class _CountedStream(EventSourceResponse):
    """Counts as its caller's while it is sent."""

    def __init__(self, counts: Counter[str], caller: str, *content: Any, **options: Any) -> None:
        super().__init__(*content, **options)
        self._counts, self._caller = counts, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._counts[self._caller] += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._counts[self._caller] -= 1
            if not self._counts[self._caller]:
                del self._counts[self._caller]


async def _messages(
    context: Context, caller: Caller, federation: str | None, after: int, progress: bool
) -> AsyncIterator[ServerSentEvent]:
    shown, waits, looked = "", "", 0.0
    while True:
        change = context.wakeups.next_change(federation)
        async with context.database.snapshot() as session:
            if not await _may_go_on(context, session, caller):
                return
            rows = await events_after(session, federation, after, _BATCH)
            state = await open_round_json(session, federation) if progress and federation else ""
        for row in rows:
            after = row.id
            yield ServerSentEvent(
                Event.of(row, addresses=caller.role is Role.ADMIN).model_dump_json(), event=row.kind, id=str(row.id)
            )
        if state and state != shown:
            yield ServerSentEvent(state, event="round.progress")
        shown = state
        if state and federation and monotonic() - looked >= _WAITS_SECONDS:
            looked = monotonic()
            latest = await _waits(context, federation)
            if latest and latest != waits:
                waits = latest
                yield ServerSentEvent(latest, event="round.waits")
        if len(rows) < _BATCH:
            await wait_for_change(change, context.stream_poll_seconds)


async def _may_go_on(context: Context, session: AsyncSession, caller: Caller) -> bool:
    if caller.ends_at is not None:
        return time.time() < caller.ends_at
    try:
        caller_now = await identify(context, session, caller.secret, Shown.nothing())
    except UnauthenticatedError:
        return False
    return caller_now.role == caller.role and caller_now.federations == caller.federations


async def _waits(context: Context, federation: str) -> str:
    """What the federation's open round waits for, as the status tells it; empty if no round is open any more.

    What the service lacks counts as the round's, where it is worse.
    """
    status = decide(await gather(context, {federation}))
    own = next((finding for finding in status.findings if finding.federation == federation and finding.round), None)
    if own is None:
        return ""
    first = next(finding for finding in status.findings if finding is own or _stops_all(finding))
    return first.model_copy(update={"federation": federation, "round": own.round}).model_dump_json()


def _stops_all(finding: Finding) -> bool:
    return finding.federation is None and finding.level is Level.TROUBLE


async def open_round_json(session: AsyncSession, federation: str) -> str:
    """The federation's open round as REST tells it; empty if there is none."""
    row = await first_open_round(session, federation)
    return "" if row is None else (await details(session, row)).model_dump_json()


async def wait_for_change(change: asyncio.Event, seconds: float) -> None:
    """Until the change, but for at least a moment and no longer than `seconds`."""
    await asyncio.sleep(min(_PAUSE_SECONDS, seconds))
    try:
        async with asyncio.timeout(max(seconds - _PAUSE_SECONDS, 0)):
            await change.wait()
    except TimeoutError:
        return
