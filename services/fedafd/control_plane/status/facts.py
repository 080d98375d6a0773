"""What the status is decided by, as of one moment: rows, presence, and whether the store and Redis answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fedafd.control_plane.clients.schemas import Client, ClientState
from fedafd.control_plane.clients.service import presences
from fedafd.control_plane.context import Context
from fedafd.messaging.broker_queue import count_waiting
from fedafd.messaging.clock_skews import read_skews
from fedafd.messaging.queries import QueryLine
from fedafd.persistence.client_repository import is_excluded
from fedafd.persistence.clock import shared_clock
from fedafd.persistence.drain_repository import get_drain
from fedafd.persistence.federation_repository import list_federations
from fedafd.persistence.models import (
    ClientRow,
    DrainRow,
    FederationRow,
    LeaseRow,
    ParticipationRow,
    RoundRow,
    StageRow,
    utc_now,
)
from fedafd.persistence.overview_repository import (
    clients_by_federation,
    coordinator_lease,
    last_finished_rounds,
    open_stages,
    participations_of,
    unsent_stages,
)
from fedafd.persistence.round_repository import list_open_rounds

__all__ = ["Facts", "FederationFacts", "RoundFacts", "gather"]

_SECONDS = 5.0
_UNSENT_SECONDS = 5.0
_MOST_FEDERATIONS = 500


@dataclass(frozen=True, kw_only=True)
class RoundFacts:
    """A round that is not over, and what it waits for."""

    row: RoundRow
    stages: Sequence[StageRow] = ()
    """Those that are pending or running."""
    parts: Sequence[tuple[ParticipationRow, ClientRow]] = ()
    unsent: frozenset[str] = frozenset()
    """Ids of stages whose message does not reach the broker."""


@dataclass(frozen=True, kw_only=True)
class FederationFacts:
    """A federation, its sites, the round that is at work or next, and the last one that is over."""

    row: FederationRow
    sites: Sequence[Client] = ()
    open_round: RoundFacts | None = None
    num_open: int = 0
    last: RoundRow | None = None
    last_parts: Sequence[tuple[ParticipationRow, ClientRow]] = ()
    """Who took part in the last round that is over."""

    @property
    def enrolled(self) -> list[Client]:
        """Sites that may take part."""
        return [site for site in self.sites if site.state is ClientState.ENROLLED]

    @property
    def online(self) -> list[Client]:
        """Sites whose agents are there."""
        return [site for site in self.sites if site.online]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything, as of `now`."""

    now: datetime
    lease: LeaseRow | None = None
    drain: DrainRow | None = None
    store_problem: str = ""
    redis_problem: str = ""
    queue: int | None = None
    """Messages in the broker that no distiller has taken; None where that is not known."""
    queries_missed_since: datetime | None = None
    """Since when people who try a version find no query worker; None while nobody tries, or one is there."""
    clock_skews: Mapping[str, float] = field(default_factory=dict)
    """By process how many seconds its machine's clock is ahead of the database's, where it differs; behind: below 0."""
    at_work: Sequence[StageRow] = ()
    """Stages of any federation that a distiller works on."""
    federations: Sequence[FederationFacts] = field(default_factory=list)


async def gather(context: Context, only: Collection[str] | None = None) -> Facts:
    """Look at everything, of federations at those in `only` (None: all).

    Raises DatabaseUnavailableError: without the database nothing is known.
    """
    now = utc_now()
    store, cache, queue, missed, skews = await asyncio.gather(
        _problem(asyncio.to_thread(_use_store, context)),
        _problem(_ping_redis(context)),
        _queue(context),
        QueryLine(context.redis).missed_since(),
        read_skews(context.redis, now),
    )
    if shared_clock.differs:
        skews = {"the control plane": shared_clock.skew_seconds, **skews}
    async with context.database.snapshot() as session:
        rows = await list_federations(session, "", _MOST_FEDERATIONS, only)
        rounds = await list_open_rounds(session)
        first: dict[str, RoundRow] = {}
        for row in rounds:
            first.setdefault(row.federation_id, row)
        stages = await open_stages(session)
        last = await last_finished_rounds(session)
        parts = await participations_of(session, [row.id for row in (*first.values(), *last.values())])
        unsent = await unsent_stages(session, now - timedelta(seconds=_UNSENT_SECONDS))
        clients = await clients_by_federation(session)
        lease, drain = await coordinator_lease(session), await get_drain(session)
    numbers = {name: row.number + 1 for name, row in last.items()} | {name: row.number for name, row in first.items()}
    sites = await _sites(context, rows, clients, numbers)
    federations = [
        FederationFacts(
            row=row,
            sites=sites[row.id],
            open_round=_open_round(first.get(row.id), stages, parts, unsent),
            num_open=sum(open_row.federation_id == row.id for open_row in rounds),
            last=last.get(row.id),
            last_parts=parts.get(last[row.id].id, ()) if row.id in last else (),
        )
        for row in rows
    ]
    at_work = [stage for group in stages.values() for stage in group if stage.state == "running"]
    return Facts(
        now=now,
        lease=lease,
        drain=drain,
        store_problem=store,
        redis_problem=cache,
        queue=queue,
        queries_missed_since=missed,
        clock_skews=skews,
        at_work=at_work,
        federations=federations,
    )


def _open_round(
    row: RoundRow | None,
    stages: Mapping[str, list[StageRow]],
    parts: Mapping[str, list[tuple[ParticipationRow, ClientRow]]],
    unsent: frozenset[str],
) -> RoundFacts | None:
    if row is None:
        return None
    return RoundFacts(row=row, stages=stages.get(row.id, ()), parts=parts.get(row.id, ()), unsent=unsent)


async def _sites(
    context: Context,
    rows: Sequence[FederationRow],
    clients: Mapping[str, list[ClientRow]],
    numbers: Mapping[str, int],
) -> dict[str, list[Client]]:
    """Of each federation those that its open round, or its next one, may invite; `numbers` are those rounds'."""
    by_federation = {}
    for row in rows:
        number = numbers.get(row.id, 1)
        of_row = [client for client in clients.get(row.id, []) if not is_excluded(client, number)]
        there = await presences(context, row.id, of_row)
        by_federation[row.id] = [Client.of(client, there.get(client.name)) for client in of_row]
    return by_federation


def _use_store(context: Context) -> None:
    context.store.ping()
    context.writes.check()


async def _ping_redis(context: Context) -> None:
    if context.redis is not None:
        await context.redis.echo("status")


async def _queue(context: Context) -> int | None:
    return None if context.redis is None else await count_waiting(context.redis)


async def _problem(work: Awaitable[object]) -> str:
    """Why it failed, in one line; empty if it did not."""
    try:
        async with asyncio.timeout(_SECONDS):
            await work
    except Exception as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else f"no answer within {_SECONDS:g} s"
    return ""
