"""Decides what waits for what: of the service first, then of each federation. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from fedafd.control_plane.status.facts import Facts, FederationFacts
from fedafd.control_plane.status.lost import lost_words
from fedafd.control_plane.status.schemas import Cause, Finding, Level, Status
from fedafd.control_plane.status.waiting import round_finding
from fedafd.domain.counted import counted
from fedafd.domain.durations import duration_words
from fedafd.domain.states import RoundState

__all__ = ["decide"]

_ORDER = list(Level)


def decide(facts: Facts) -> Status:
    """The status, worst first; among findings of one level the service's own come before the federations'."""
    findings = [*_of_service(facts), *(_of_federation(facts, federation) for federation in facts.federations)]
    if not facts.federations:
        findings.append(
            _finding(
                Level.WAITING,
                Cause.NO_FEDERATION,
                "there is no federation yet",
                "make one: `fedafd bootstrap --name NAME`, or `fedafd federation create -f federation.yaml`",
            )
        )
    if facts.queries_missed_since is not None:  # after what rounds wait for
        words = "queries wait: somebody tries a model version, and no query worker is running"
        remedy = "start one: `fedafd queries`"
        findings.append(_finding(Level.WAITING, Cause.NO_QUERY_WORKER, words, remedy, facts.queries_missed_since))
    for process, seconds in facts.clock_skews.items():
        side = "ahead of" if seconds > 0 else "behind"
        words = f"the clock of {process} is {duration_words(abs(seconds))} {side} the database's, which rounds go by"
        findings.append(_finding(Level.WAITING, Cause.CLOCK, words, "set it by NTP: certificates depend on it"))
    findings.sort(key=lambda finding: _ORDER.index(finding.level))
    return Status(level=findings[0].level, at=facts.now, summary=findings[0].sentence(facts.now), findings=findings)


def _of_service(facts: Facts) -> Iterator[Finding]:
    if facts.store_problem:
        words = f"the object store cannot be used: {facts.store_problem}"
        yield _finding(Level.TROUBLE, Cause.STORE, words, "see that it runs, answers and has space")
    if facts.redis_problem:
        words = f"Redis cannot be reached: {facts.redis_problem}; distillers get no work"
        yield _finding(Level.TROUBLE, Cause.REDIS, words, "start it: rounds go on by themselves")
    if facts.lease is None or facts.lease.expires_at < facts.now:
        since = facts.lease.expires_at if facts.lease else None
        words = "no aggregator is running: rounds stand still, and sites cannot call"
        yield _finding(Level.TROUBLE, Cause.NO_AGGREGATOR, words, "start one: `fedafd aggregator`", since)
    if facts.drain is not None:
        why = f" ({facts.drain.reason})" if facts.drain.reason else ""
        words = f"the service is drained by {facts.drain.actor}{why}: queued rounds wait"
        yield _finding(Level.WAITING, Cause.DRAINED, words, "end it with `fedafd resume`", facts.drain.since)


def _of_federation(facts: Facts, federation: FederationFacts) -> Finding:
    if federation.open_round is not None:
        return round_finding(facts, federation, federation.open_round)
    name = federation.row.id

    def finding(level: Level, cause: Cause, words: str, remedy: str = "", since: datetime | None = None) -> Finding:
        return _finding(level, cause, f"{name}: {words}", remedy, since, federation=name)

    upper = federation.row.follows  # public set and rounds come from there
    if federation.row.public_set_sha256 is None and upper is None:
        return finding(
            Level.WAITING, Cause.NO_PUBLIC_SET, "has no public set yet", "send one: `fedafd public-set push`"
        )
    if not federation.enrolled:
        waiting = f"; {len(federation.sites)} invited" if federation.sites else ""
        remedy = "invite a site: `fedafd client invite`"
        if federation.sites:
            remedy = "start their agents with the token that they were given: `fedafd agent run --token-file`"
        return finding(Level.WAITING, Cause.NO_SITE, f"no site has enrolled yet{waiting}", remedy)
    last = federation.last
    if last is not None and last.state == RoundState.FAILED.value:
        lost = lost_words(federation.last_parts)
        words = f"round {last.number} failed: {last.reason}" + (f"; {lost}" if lost else "")
        remedy = "mend that and start a round again" if upper is None else f"mend that before {upper}'s next round"
        return finding(Level.TROUBLE, Cause.ROUND_FAILED, words, remedy, last.finished_at)
    if not federation.online:
        words = f"no round is open, and no agent of its {_sites(len(federation.enrolled))} is online"
        return finding(
            Level.WAITING, Cause.NO_SITE_ONLINE, words, "start the agents before the next round: `fedafd agent run`"
        )
    online = f"{len(federation.online)} of {_sites(len(federation.enrolled))} online"
    if last is None:
        remedy = (
            "start the first round: `fedafd round start --watch`"
            if upper is None
            else f"its rounds come from federation {upper}"
        )
        return finding(Level.WAITING, Cause.IDLE, f"is ready, {online}", remedy)
    words = f"round {last.number} {last.state}, no round is open, {online}"
    if last.state == RoundState.COMPLETED.value and (lost := lost_words(federation.last_parts)):
        return finding(Level.WAITING, Cause.SITES_LOST, f"{words}; {lost}", "see to that before the next round")
    return finding(Level.FINE, Cause.IDLE, words)


def _sites(count: int) -> str:
    return counted(count, "site")


def _finding(
    level: Level,
    cause: Cause,
    words: str,
    remedy: str,
    since: datetime | None = None,
    *,
    federation: str | None = None,
) -> Finding:
    return Finding(level=level, cause=cause, federation=federation, round=None, words=words, since=since, remedy=remedy)
