"""Inviting: once the global model is prepared, the round's cohort is drawn and asked to deliver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType

from fedafd.aggregator.step import COORDINATOR, Step
from fedafd.domain.cohorts import Candidate, draw_cohort, short_of_quorum
from fedafd.domain.kinds import ParticipantKind
from fedafd.domain.states import RoundState
from fedafd.persistence.client_repository import enrolled_clients, is_excluded
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.look_repository import StageLook
from fedafd.persistence.models import ClientRow, utc_now
from fedafd.persistence.participation_repository import count_invitations, invite_cohort

__all__ = ["invite"]


async def invite(step: Step, prepared: StageLook) -> bool:
    """Draw the cohort and go on; where too few sites are online for the quorum, wait for them, and fail in the end."""
    enrolled = await enrolled_clients(step.session, step.row.federation_id)
    if not enrolled:
        return await step.fail("no client is enrolled; invite clients and start their agents, then start a round")
    enrolled = [client for client in enrolled if not is_excluded(client, step.row.number)]
    if not enrolled:
        return await step.fail("every enrolled client is excluded from this round; `fedafd client readmit NAME`")
    if not step.config.cohort.is_drawn:
        return await _collect(step, enrolled, None)
    online = [client for client in enrolled if _is_online(client)]
    short = short_of_quorum(step.config.quorum, _candidates(online))
    if short:
        return await _wait(step, prepared, f"{short} are online")
    return await _collect(step, await _drawn(step, online), len(online))


async def _drawn(step: Step, online: Sequence[ClientRow]) -> list[ClientRow]:
    config = step.config
    counts = await count_invitations(step.session, [client.id for client in online])
    sites = _candidates(online, counts)
    chosen = {
        candidate.name for candidate in draw_cohort(config.cohort, config.quorum, config.seed, step.row.number, sites)
    }
    return [client for client in online if client.name in chosen]


async def _wait(step: Step, prepared: StageLook, short: str) -> bool:
    seconds = step.config.idle_timeout_seconds
    since = prepared.finished_at or step.row.state_changed_at
    if utc_now() - since < timedelta(seconds=seconds):
        return False
    return await step.fail(f"quorum not reached: {short} after {seconds:g} s; start their agents, then start a round")


async def _collect(step: Step, cohort: Sequence[ClientRow], num_online: int | None) -> bool:
    seconds = step.config.round_deadline_seconds
    deadline = None if seconds is None else utc_now() + timedelta(seconds=seconds)
    if not await step.move(RoundState.COLLECTING, num_online=num_online, deadline_at=deadline):
        return False
    await invite_cohort(step.session, step.row.id, cohort)
    if num_online is not None:
        record_event(
            step.session,
            "round.cohort_drawn",
            federation_id=step.row.federation_id,
            actor=COORDINATOR,
            round=step.row.number,
            num_invited=len(cohort),
            num_online=num_online,
        )
    return True


def _candidates(clients: Sequence[ClientRow], invited: Mapping[str, int] = MappingProxyType({})) -> list[Candidate]:
    return [
        Candidate(client.name, ParticipantKind(client.kind), invited.get(client.id, 0), client.max_clients or 1)
        for client in clients
    ]


def _is_online(client: ClientRow) -> bool:
    """Its agent holds its session: it called a moment ago, or waits in a call."""
    return client.session is not None and client.session_until is not None and client.session_until > utc_now()
