"""What an open round waits for: its turn, a distiller's stage, or its sites."""

from __future__ import annotations

from datetime import datetime, timedelta

from fedafd.control_plane.status.facts import Facts, FederationFacts, RoundFacts
from fedafd.control_plane.status.lost import LOST, lost_words
from fedafd.control_plane.status.schemas import Cause, Finding, Level
from fedafd.domain.cohorts import Candidate, short_of_quorum
from fedafd.domain.config.federation import stored_federation_config
from fedafd.domain.kinds import Modality
from fedafd.domain.leaving import some
from fedafd.domain.states import OPEN_PARTICIPATION_STATES, ParticipationState, RoundState, StageState
from fedafd.persistence.models import StageRow
from fedafd.persistence.participation_repository import clients_in, clients_with

__all__ = ["round_finding"]

_UNTAKEN = timedelta(seconds=5)
"""An idle distiller takes a message at once."""
_SILENT = timedelta(seconds=30)
"""Without a sign of life for twice the lease, which is 15 s unless set otherwise."""
_DOES = {
    "prepare": "preparing the global model",
    "fold": "folding deliveries",
    "weigh": "weighing deliveries",
    "merge": "merging deliveries",
    "distil": "distilling",
    "evaluate": "evaluating and publishing",
}


class _OfRound:
    """Makes findings of one round."""

    def __init__(self, federation: str, number: int) -> None:
        self._federation, self._number = federation, number

    def __call__(
        self, level: Level, cause: Cause, words: str, remedy: str = "", since: datetime | None = None
    ) -> Finding:
        return Finding(
            level=level,
            cause=cause,
            federation=self._federation,
            round=self._number,
            words=f"{self._federation}: round {self._number} {words}",
            since=since,
            remedy=remedy,
        )


def round_finding(facts: Facts, federation: FederationFacts, round_facts: RoundFacts) -> Finding:
    """What the round waits for."""
    row, finding = round_facts.row, _OfRound(federation.row.id, round_facts.row.number)
    state = RoundState(row.state)
    if state is RoundState.QUEUED:
        if facts.drain is not None:
            words = "is queued; the service is drained"
            return finding(Level.WAITING, Cause.DRAINED, words, "end it with `fedafd resume`", facts.drain.since)
        return finding(Level.WAITING, Cause.STARTING, "is queued and starts next", since=row.state_changed_at)
    if state is RoundState.COLLECTING:
        return _collecting(facts, federation, round_facts, finding)
    if state is RoundState.PREPARING and not round_facts.stages:
        return _inviting(federation, round_facts, finding)
    return _stages(facts, round_facts, finding)


def _stages(facts: Facts, round_facts: RoundFacts, finding: _OfRound) -> Finding:
    if round_facts.row.state == RoundState.DISTILLING.value and round_facts.row.upstream_round_id is not None:
        words = "has merged what its sites sent, and delivers it to the upper federation"
        remedy = "if this lasts, see the log of `fedafd region run`, or start it"
        return finding(Level.WAITING, Cause.STARTING, words, remedy, round_facts.row.state_changed_at)
    pending = [stage for stage in round_facts.stages if stage.state == StageState.PENDING.value]
    running = [stage for stage in round_facts.stages if stage.state == StageState.RUNNING.value]
    failed = next((stage for stage in round_facts.stages if stage.failures), None)
    silent = [stage for stage in running if facts.now - stage.alive_at > _SILENT]
    if silent:
        return _silent(silent[0], finding)
    if running:
        if failed is not None:
            return _tried(failed, finding)
        return _at_work(running[0], finding)
    if pending:
        return _untaken(facts, round_facts, pending[0], finding)
    return finding(Level.WAITING, Cause.STARTING, f"is {round_facts.row.state}", since=round_facts.row.state_changed_at)


def _at_work(stage: StageRow, finding: _OfRound) -> Finding:
    doing = stage.activity or _DOES[stage.kind]
    words = f"is at work on {stage.worker}: {doing}, {stage.progress:.0%}"
    return finding(Level.FINE, Cause.STAGE, words, since=stage.created_at)


def _tried(stage: StageRow, finding: _OfRound) -> Finding:
    why = f": {stage.reason}" if stage.reason else ""
    times = "once" if stage.failures == 1 else f"{stage.failures} times"
    words = f"is {_DOES[stage.kind]} again, after it failed {times}{why}"
    return finding(Level.WAITING, Cause.STAGE_FAILED, words, "see the distiller's log", stage.created_at)


def _silent(stage: StageRow, finding: _OfRound) -> Finding:
    words = f"was {_DOES[stage.kind]} on {stage.worker}, of which nothing was heard since"
    return finding(
        Level.TROUBLE, Cause.DISTILLER_SILENT, words, "start a distiller: `fedafd distiller`", stage.alive_at
    )


def _untaken(facts: Facts, round_facts: RoundFacts, stage: StageRow, finding: _OfRound) -> Finding:
    """Nobody works on it: because nobody is told, nobody is there, or all are at something else."""
    what, since = f"waits for a distiller, for {_DOES[stage.kind]}", stage.last_progress_at
    if facts.redis_problem or stage.id in round_facts.unsent:
        return finding(
            Level.TROUBLE, Cause.REDIS, f"{what}: its message does not leave, Redis is away", "start Redis", since
        )
    elsewhere = [other for other in facts.at_work if facts.now - other.alive_at <= _SILENT]
    if elsewhere:
        busy = f"{what}: {elsewhere[0].worker} is at another stage"
        return finding(Level.WAITING, Cause.DISTILLER_BUSY, busy, "it is taken up after that, or start another", since)
    if facts.now - since <= _UNTAKEN:
        return finding(Level.WAITING, Cause.STARTING, what, since=since)
    start = "start one: `fedafd distiller`"
    if facts.queue == 0:
        words = f"{what}: its message was taken, but it has not begun"
        return finding(Level.TROUBLE, Cause.NOT_BEGUN, words, f"see the distiller's log, or {start}", since)
    failed = f"; it failed {stage.failures} times: {stage.reason}" if stage.failures and stage.reason else ""
    return finding(Level.TROUBLE, Cause.NO_DISTILLER, f"{what}: none is running{failed}", start, since)


def _collecting(facts: Facts, federation: FederationFacts, round_facts: RoundFacts, finding: _OfRound) -> Finding:
    online = {site.name for site in federation.online}
    awaited = [
        client.name for part, client in round_facts.parts if ParticipationState(part.state) in OPEN_PARTICIPATION_STATES
    ]
    since = round_facts.row.state_changed_at
    if not awaited and round_facts.stages:
        return _stages(facts, round_facts, finding)
    delivered = sum(part.state == ParticipationState.DELIVERED.value for part, _ in round_facts.parts)
    have = f"has {delivered} of {len(round_facts.parts)} deliveries"
    lost = lost_words(round_facts.parts)
    without = f"; {lost}" if lost else ""
    if short := _short(round_facts):
        words = f"{have} and cannot reach its quorum: {short}{without}"
        return finding(Level.TROUBLE, Cause.QUORUM_SHORT, words, "cancel it, mend that and start another", since)
    away = [name for name in awaited if name not in online]
    if away and len(away) == len(awaited):
        words = f"{have} and waits for {some(away)}: no agent of them is online{without}"
        return finding(Level.TROUBLE, Cause.NO_SITE_ONLINE, words, "start their agents: `fedafd agent run`", since)
    if away:
        words = f"{have} and waits for {some(awaited)}; not online: {some(away)}{without}"
        return finding(Level.WAITING, Cause.SITES_AWAY, words, "start those agents, or wait for the deadline", since)
    words = f"{have}; at work: {some(awaited) or 'none'}{without}"
    if lost:
        return finding(
            Level.WAITING, Cause.SITES_LOST, words, "the round goes on without them; see to those sites", since
        )
    return finding(Level.FINE, Cause.SITES, words, since=since)


def _short(round_facts: RoundFacts) -> str:
    """What of the quorum cannot be reached even if every site that is still awaited delivers; empty if it can."""
    quorum = stored_federation_config(round_facts.row.config).quorum
    possible = [(part, client) for part, client in round_facts.parts if part.state not in LOST]
    needs = [("", sum(clients_in(part, client) for part, client in possible), quorum.min_clients)]
    for modality, needed in ((Modality.IMAGE, quorum.min_image_clients), (Modality.TEXT, quorum.min_text_clients)):
        holders = sum(clients_with(part, client, modality) for part, client in possible)
        needs.append((f" with {modality.value} representations", holders, needed))
    return ", ".join(f"{have} of {needed} sites{what}" for what, have, needed in needs if have < needed)


def _inviting(federation: FederationFacts, round_facts: RoundFacts, finding: _OfRound) -> Finding:
    """It is prepared, and invites its cohort as soon as enough sites are online."""
    config, since = stored_federation_config(round_facts.row.config), round_facts.row.state_changed_at
    online = [Candidate(site.name, site.kind, 0, site.max_clients or 1) for site in federation.online]
    short = short_of_quorum(config.quorum, online)
    if not config.cohort.is_drawn or not short:
        return finding(Level.WAITING, Cause.STARTING, "is prepared and invites its sites next", since=since)
    words = f"is prepared and waits for sites: {short} are online"
    return finding(Level.TROUBLE, Cause.NO_SITE_ONLINE, words, "start their agents: `fedafd agent run`", since)
