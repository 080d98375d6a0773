"""The coordinator: moves rounds along. One aggregator at a time does it, under a lease with a fencing token.

It keeps nothing: each step looks at the rows, decides, and changes them in one transaction guarded by the round's old
state and the lease's token. Whoever holds the lease next goes on from the rows.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from datetime import datetime, timedelta
from time import monotonic

from fedafd.aggregator.context import Context
from fedafd.aggregator.glancing import needs_look, takes_glances
from fedafd.aggregator.outbox import Outbox
from fedafd.aggregator.steps import Step, step_round
from fedafd.aggregator.wakeups import Listener
from fedafd.domain.errors import DatabaseUnavailableError, FedafdError
from fedafd.domain.states import OPEN_ROUND_STATES, RoundState
from fedafd.persistence.drain_repository import may_start_rounds
from fedafd.persistence.glance_repository import RoundGlance, glance_at_round
from fedafd.persistence.lease_repository import COORDINATOR_LEASE, acquire_lease, release_lease
from fedafd.persistence.models import RoundRow, utc_now
from fedafd.persistence.round_repository import get_round, list_open_rounds
from fedafd.telemetry.logging import bind_context, get_logger
from fedafd.telemetry.tracing import span_below

__all__ = ["Coordinator"]

_LEASES_PER_LOOK = 3
_RENEWED_SHARE = 0.1
"""Of the lease, before it is renewed."""
_RELEASE_SECONDS = 5.0
_REST = 2.0
_IDLE_POLLS = 3
_SHORTEST_REST_SECONDS = 0.02
_LONGEST_REST_SECONDS = 0.2
"""After a look that changed nothing, or a look for messages, comes a rest, _REST times as long as it took, within these
limits."""
_log = get_logger(__name__)


class Coordinator:
    """One candidate. `run` tries to hold the lease and works while it does, until cancelled."""

    def __init__(
        self, context: Context, outbox: Outbox, *, lease_seconds: float = 10.0, poll_seconds: float = 1.0
    ) -> None:
        self._context = context
        self._outbox = outbox
        self._lease = timedelta(seconds=lease_seconds)
        self._poll_seconds = poll_seconds
        self._leading_since: float | None = None
        self._token: int | None = None
        self._renewed_at = 0.0
        self._idle = False
        self._moving = asyncio.Lock()
        self._seen: dict[str, RoundGlance] = {}
        """How each round stood at the last look at its rows; it only spares looks, so that losing it is harmless."""
        self._looked = Listener()
        context.mover.move = self.move
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    @property
    def leading(self) -> bool:
        """True while this candidate holds the lease."""
        return self._leading_since is not None

    @property
    def idle(self) -> bool:
        """True while this candidate leads and saw no open round at its last look."""
        return self._idle

    @property
    def _look_again_seconds(self) -> float:
        """Until the next look without any news: longer for who leads while no round is open, as the lease allows."""
        longest = min(_IDLE_POLLS * self._poll_seconds, self._lease.total_seconds() / 3)
        return max(longest, self._poll_seconds) if self._idle else self._poll_seconds

    async def run(self) -> None:
        """Coordinate whenever this candidate holds the lease, until the process drains: then give the lease up.

        The broker is served from a task of its own: one that does not answer delays no round.
        """
        sending = asyncio.ensure_future(self._send_always())
        try:
            with self._context.wakeups.of_rounds() as news:
                while not self._context.draining.is_set():
                    began = monotonic()
                    worked = await self._try_to_move()
                    if not self._idle:
                        self._looked.wake()
                    if not worked:
                        await _rest(began)
                        await news.wait(self._look_again_seconds)
        finally:
            sending.cancel()
            self._stand_down()
            await asyncio.shield(self._release())

    async def _try_to_move(self) -> bool:
        try:
            return await self._move_in_time()
        except Exception as error:
            # A database that is away for a while must not end the coordinator.
            if isinstance(error, FedafdError):
                _log.error("coordinator.failed", reason=str(error))
            else:
                _log.exception("coordinator.failed", reason=str(error))
            self._stand_down()
            return False

    async def move(self, row: RoundRow) -> bool:
        """Take the round one step further now, if this candidate leads; False if it does not."""
        token = self._token
        if not self.leading or token is None:
            return False
        async with self._moving:
            await self._step(row, token)
        return True

    async def look(self) -> bool:
        """Do what can be done now and send what is due; True if something changed and another look is due at once."""
        moved = await self._move()
        await self._outbox.send()
        return moved

    async def _move_in_time(self) -> bool:
        """As `_move`, but who does not get through within the lease coordinates no more, and gives up after three."""
        seconds = self._lease.total_seconds()
        alarm = asyncio.get_running_loop().call_later(seconds, self._stand_down)
        try:
            async with asyncio.timeout(_LEASES_PER_LOOK * seconds):
                return await self._move()
        except TimeoutError:
            words = f"the database did not answer in {_LEASES_PER_LOOK * seconds:g} s; coordination stands still"
            raise DatabaseUnavailableError(words) from None
        finally:
            alarm.cancel()

    def _stand_down(self) -> None:
        self._leading_since = None
        self._context.metrics.leader.set(0)

    async def _send_always(self) -> None:
        with self._context.wakeups.of_rounds(self._looked):
            while True:
                # Without an open round nothing is sent; what becomes open comes with news, or with a look.
                await self._looked.wait(self._look_again_seconds * (_IDLE_POLLS if self._idle else 1))
                if not self.leading:
                    continue
                began = monotonic()
                try:
                    await self._outbox.send()
                except Exception as error:
                    _log.warning("outbox.failed", reason=str(error))
                await _rest(began)

    async def _move(self) -> bool:
        token, rows = await self._hold()
        self._context.metrics.leader.set(0 if token is None else 1)
        self._token, self._idle = token, token is not None and not rows
        if token is None:
            self._leading_since = None
            return False
        if self._leading_since is None:
            self._leading_since = monotonic()
        self._seen = {row.id: self._seen[row.id] for row in rows if row.id in self._seen}
        moved = False
        blocked: set[str] = set()
        for row in rows:
            # Rounds come by number: only the first open one of a federation moves.
            if row.federation_id not in blocked:
                blocked.add(row.federation_id)
                async with self._moving:
                    moved = await self._look_at(row, token) or moved
        return moved

    async def _hold(self) -> tuple[int | None, list[RoundRow]]:
        """The lease's token, None while another candidate has it, and the open rounds.

        A lease that was renewed a moment ago is not written again with each look: nobody can have taken it since.
        """
        now = monotonic()
        if self.leading and now - self._renewed_at < _RENEWED_SHARE * self._lease.total_seconds():
            async with self._context.database.snapshot() as session:
                return self._token, list(await list_open_rounds(session))
        async with self._context.database.transaction() as session:
            token = await acquire_lease(session, COORDINATOR_LEASE, self.holder, self._lease)
            rows = [] if token is None else list(await list_open_rounds(session))
        self._renewed_at = now
        return token, rows

    async def _look_at(self, row: RoundRow, token: int) -> bool:
        """Step if a glance says that there may be something to do."""
        if not takes_glances(row):
            return await self._step(row, token)
        async with self._context.database.snapshot() as session:
            step = Step(session, row, token, self._alive_since(), self._listening_since())
            glance = await glance_at_round(session, row.id)
        if not needs_look(step, self._seen.get(row.id), glance):
            return False
        return await self._step(row, token, glance)

    async def _step(self, row: RoundRow, token: int, glance: RoundGlance | None = None) -> bool:
        """Look at all rows, and do what can be done; `glance` is from just before."""
        with bind_context(federation=row.federation_id, round_number=row.number):
            self._seen.pop(row.id, None)
            async with self._context.database.transaction() as session:
                fresh = await get_round(session, row.id)
                old, since = fresh.state, fresh.state_changed_at
                if old not in OPEN_ROUND_STATES:  # the distiller's line has moved it on to its end meanwhile
                    return False
                if old == RoundState.QUEUED.value and not await may_start_rounds(session):
                    return False
                with span_below(fresh.traceparent if old != RoundState.COLLECTING.value else None, f"round.{old}"):
                    trouble = "".join(self._context.store_trouble)
                    step = Step(session, fresh, token, self._alive_since(), self._listening_since(), trouble)
                    changed = await step_round(step)
            if glance is not None and fresh.state == old:
                # What this look left for the next one, as it does one thing at a time, shows in the next glance.
                self._seen[row.id] = glance
            for kind in step.lost:
                self._context.metrics.stage_failures.labels(kind=kind).inc()
            if fresh.state != old:
                _log.info("round.state_changed", old=old, new=fresh.state, reason=fresh.reason)
                self._count(fresh, old, since)
            if changed:
                # Tasks change where a round begins or ends to collect, and for whom it goes on without.
                collecting = RoundState.COLLECTING.value in (old, fresh.state) and fresh.state != old
                clients = None if collecting else step.dropped
                self._context.wakeups.changed(row.federation_id, clients=clients, rounds=False)
            return changed

    def _count(self, row: RoundRow, old: str, since: datetime) -> None:
        metrics = self._context.metrics
        metrics.transitions.labels(state=row.state).inc()
        metrics.state_seconds.labels(state=old).observe((row.state_changed_at - since).total_seconds())
        if row.finished_at is not None:
            started = row.started_at or row.created_at
            metrics.round_seconds.labels(state=row.state).observe((row.finished_at - started).total_seconds())

    def _listening_since(self) -> datetime:
        # Sites and distillers could tell nothing while no aggregator was there, or none that reached the database.
        led = 0.0 if self._leading_since is None else monotonic() - self._leading_since
        return utc_now() - timedelta(seconds=led)

    def _alive_since(self) -> datetime | None:
        """Who was not heard of since then is lost. None at first: nobody could renew while no aggregator was there."""
        lease = self._context.stage_lease
        if self._leading_since is None or monotonic() - self._leading_since < lease.total_seconds():
            return None
        return utc_now() - lease

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(_RELEASE_SECONDS), self._context.database.transaction() as session:
                await release_lease(session, COORDINATOR_LEASE, self.holder)
        except Exception as error:
            # Without its database a process must still end; the lease runs out by itself.
            _log.warning("coordinator.lease_not_released", reason=str(error))


async def _rest(began: float) -> None:
    """After what began then: what arrives while many deliver is seen at once, not in a look for each. A look that comes
    after a quiet moment does not wait."""
    rest = max(_SHORTEST_REST_SECONDS, _REST * (monotonic() - began))
    await asyncio.sleep(min(_LONGEST_REST_SECONDS, rest))
