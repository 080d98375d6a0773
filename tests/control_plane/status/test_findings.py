"""What waits for what, decided from rows: each cause is told apart from the others, and says what to do."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fedafd.control_plane.clients.schemas import Client
from fedafd.control_plane.status.facts import Facts, FederationFacts, RoundFacts
from fedafd.control_plane.status.findings import decide
from fedafd.control_plane.status.schemas import Cause, Finding, Level
from fedafd.domain.config import parse_federation_config
from fedafd.persistence.models import (
    ClientRow,
    DrainRow,
    FederationRow,
    LeaseRow,
    ParticipationRow,
    RoundRow,
    StageRow,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def facts(*federations: FederationFacts, **changes: Any) -> Facts:
    lease = LeaseRow(name="coordinator", holder="a", token=1, expires_at=NOW + timedelta(seconds=5))
    values: dict[str, Any] = {"now": NOW, "lease": lease, "queue": 0, "federations": federations}
    return Facts(**(values | changes))


def client(name: str, kind: str = "image", *, seen: float | None = 1.0) -> ClientRow:
    return ClientRow(
        id=name, name=name, kind=kind, federation_id="lungs", created_at=ago(900), enrolled_at=ago(800),
        last_seen_at=None if seen is None else datetime.now(UTC) - timedelta(seconds=seen),
    )  # fmt: skip


def federation(found: RoundFacts | None = None, *clients: ClientRow, **changes: Any) -> FederationFacts:
    row = FederationRow(id="lungs", config={}, public_set_sha256="0" * 64)
    values: dict[str, Any] = {
        "row": row,
        "sites": [Client.of(each, None) for each in clients],
        "open_round": found,
        "num_open": 1,
    }
    return FederationFacts(**(values | changes))


def round_row(state: str, number: int = 9, **quorum: int) -> RoundRow:
    config = parse_federation_config(
        {"name": "lungs", "preset": "small", "quorum": quorum} if quorum else {"name": "lungs"}
    )
    return RoundRow(
        id="r", number=number, state=state, config=config.model_dump(mode="json"), state_changed_at=ago(40)
    )  # fmt: skip


def stage(state: str = "pending", **changes: Any) -> StageRow:
    values = {
        "id": "s", "round_id": "r", "kind": "prepare", "modality": "", "state": state, "failures": 0, "progress": 0.5,
        "worker": "gpu-1" if state == "running" else None, "activity": None, "reason": None, "created_at": ago(40),
        "last_progress_at": ago(40), "alive_at": ago(1 if state == "running" else 9999),
    }  # fmt: skip
    return StageRow(**(values | changes))


def part(name: str, state: str, kind: str = "image") -> tuple[ParticipationRow, ClientRow]:
    return ParticipationRow(id=name, client_id=name, state=state, position=0), client(name, kind)


def of_round(**round_facts: Any) -> Finding:
    """The finding of federation lungs, whose round 9 is prepared unless `row` is given."""
    clients = round_facts.pop("clients", [client("north")])
    service = round_facts.pop("service", {})
    found = RoundFacts(**({"row": round_row("preparing")} | round_facts))
    return next(each for each in decide(facts(federation(found, *clients), **service)).findings if each.federation)


def test_a_round_that_nobody_takes_up_says_that_no_distiller_runs_since_when_and_how_to_start_one() -> None:
    found = of_round(stages=[stage()], service={"queue": 1})
    assert (found.level, found.cause, found.round) == (Level.TROUBLE, Cause.NO_DISTILLER, 9)
    assert found.sentence(NOW) == (
        "lungs: round 9 waits for a distiller, for preparing the global model: none is running (for 40 s);"
        " start one: `fedafd distiller`"
    )


@pytest.mark.parametrize(
    ("given", "cause", "level"),
    [
        ({"stages": [stage(last_progress_at=ago(2))], "service": {"queue": 1}}, Cause.STARTING, Level.WAITING),
        ({"stages": [stage()], "service": {"queue": None}}, Cause.NO_DISTILLER, Level.TROUBLE),
        ({"stages": [stage()], "service": {"queue": 0}}, Cause.NOT_BEGUN, Level.TROUBLE),
        ({"stages": [stage()], "service": {"redis_problem": "refused"}}, Cause.REDIS, Level.TROUBLE),
        ({"stages": [stage()], "unsent": frozenset("s")}, Cause.REDIS, Level.TROUBLE),
        (
            {"stages": [stage()], "service": {"queue": 1, "at_work": [stage("running", round_id="other")]}},
            Cause.DISTILLER_BUSY,
            Level.WAITING,
        ),
        ({"stages": [stage("running")]}, Cause.STAGE, Level.FINE),
        ({"stages": [stage("running", alive_at=ago(60))]}, Cause.DISTILLER_SILENT, Level.TROUBLE),
        ({"stages": [stage("running", failures=2, reason="out of memory")]}, Cause.STAGE_FAILED, Level.WAITING),
        ({"row": round_row("queued")}, Cause.STARTING, Level.WAITING),
    ],
)  # fmt: skip
def test_what_a_stage_waits_for_is_told_apart(given: dict[str, Any], cause: Cause, level: Level) -> None:
    found = of_round(**given)
    assert (found.cause, found.level) == (cause, level)


def test_a_stage_that_failed_says_why() -> None:
    found = of_round(stages=[stage("running", failures=2, reason="out of memory")])
    assert "failed 2 times: out of memory" in found.words


def test_a_prepared_round_whose_cohort_lacks_sites_says_how_many_are_online_and_what_to_do() -> None:
    row = round_row("preparing", min_clients=2)
    assert of_round(row=row).cause is Cause.STARTING
    row.config = row.config | {"cohort": {"fraction": 1.0}}
    found = of_round(row=row)
    assert (found.level, found.cause) == (Level.TROUBLE, Cause.NO_SITE_ONLINE)
    assert "waits for sites: 1 of 2 sites are online" in found.words
    assert "fedafd agent run" in found.remedy
    assert of_round(row=row, clients=[client("north"), client("south")]).cause is Cause.STARTING


def test_a_queued_round_of_a_drained_service_names_who_drained_it_and_how_to_go_on() -> None:
    drain = DrainRow(id=1, actor="api-key:admin", reason="upgrade", since=ago(300))
    status = decide(facts(federation(RoundFacts(row=round_row("queued"))), drain=drain))
    assert [each.cause for each in status.findings] == [Cause.DRAINED] * 2
    assert "api-key:admin (upgrade)" in status.findings[0].words
    assert {each.remedy for each in status.findings} == {"end it with `fedafd resume`"}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"store_problem": "disk is full"}, Cause.STORE),
        ({"redis_problem": "connection refused"}, Cause.REDIS),
        ({"lease": None}, Cause.NO_AGGREGATOR),
        (
            {"lease": LeaseRow(name="coordinator", holder="a", token=1, expires_at=ago(90))},
            Cause.NO_AGGREGATOR,
        ),
    ],
)  # fmt: skip
def test_what_the_service_lacks_comes_first(changes: dict[str, Any], cause: Cause) -> None:
    status = decide(facts(federation(None, client("north")), **changes))
    assert (status.level, status.findings[0].cause) == (Level.TROUBLE, cause)
    assert str(changes.get("store_problem") or changes.get("redis_problem") or "") in status.summary


def test_sites_that_a_round_waits_for_are_named_and_who_of_them_is_away() -> None:
    parts = [part("east", "delivered"), part("north", "training"), part("south", "invited")]
    there = [client("east"), client("north"), client("south", seen=None)]
    found = of_round(row=round_row("collecting"), parts=parts, clients=there)
    assert (found.cause, found.level) == (Cause.SITES_AWAY, Level.WAITING)
    assert found.words.endswith("has 1 of 3 deliveries and waits for north, south; not online: south")
    nobody = of_round(row=round_row("collecting"), parts=parts[1:], clients=[client("north", seen=500)])
    assert (nobody.cause, nobody.level) == (Cause.NO_SITE_ONLINE, Level.TROUBLE)
    well = of_round(row=round_row("collecting"), parts=parts, clients=[client("north"), client("south")])
    assert (well.cause, well.level) == (Cause.SITES, Level.FINE)


@pytest.mark.parametrize(
    ("quorum", "short"),
    [
        ({"min_clients": 3}, "2 of 3 sites"),
        ({"min_clients": 1, "min_text_clients": 1}, "0 of 1 sites with text representations"),
    ],
)
def test_a_quorum_that_cannot_be_reached_any_more_is_told_before_the_deadline(
    quorum: dict[str, int], short: str
) -> None:
    parts = [part("north", "training"), part("east", "delivered"), part("south", "dropped", "text")]
    found = of_round(row=round_row("collecting", **quorum), parts=parts)
    assert (found.cause, found.level) == (Cause.QUORUM_SHORT, Level.TROUBLE)
    assert short in found.words


def lost(name: str, state: str = "dropped", reason: str | None = "its disk is full") -> Any:
    found, owner = part(name, state)
    found.reason = reason
    return found, owner


def test_sites_that_a_round_lost_are_told_with_their_reasons_while_it_goes_on_and_after_it() -> None:
    parts = [part("north", "training"), lost("east"), lost("west"), lost("south", "rejected", None)]
    words = "dropped: east, west (its disk is full); rejected: south (no reason recorded)"
    found = of_round(row=round_row("collecting"), parts=parts)
    assert (found.cause, found.level) == (Cause.SITES_LOST, Level.WAITING)
    assert found.words.endswith(words)
    (after,) = decide(facts(federation(None, client("north"), last=round_row("completed"), last_parts=parts))).findings
    assert (after.cause, after.level) == (Cause.SITES_LOST, Level.WAITING)
    assert after.words.endswith(words)
    (failed,) = decide(facts(federation(None, client("north"), last=round_row("failed"), last_parts=parts))).findings
    assert failed.words.endswith(words)


def test_many_reasons_and_many_names_stay_one_line() -> None:
    parts = [lost(f"site-{number}", reason=f"reason {number % 5}") for number in range(100)]
    (after,) = decide(facts(federation(None, client("north"), last=round_row("completed"), last_parts=parts))).findings
    assert "and 15 more (reason 0)" in after.words
    assert after.words.endswith("and 40 more for other reasons")


@pytest.mark.parametrize(
    ("given", "cause", "level"),
    [
        (federation(None, row=FederationRow(id="lungs", config={})), Cause.NO_PUBLIC_SET, Level.WAITING),
        (federation(None), Cause.NO_SITE, Level.WAITING),
        (federation(None, client("north", seen=900)), Cause.NO_SITE_ONLINE, Level.WAITING),
        (federation(None, client("north")), Cause.IDLE, Level.WAITING),
        (federation(None, client("north"), last=round_row("completed")), Cause.IDLE, Level.FINE),
        (federation(None, client("north"), last=round_row("failed")), Cause.ROUND_FAILED, Level.TROUBLE),
    ],
)
def test_a_federation_at_rest_says_what_is_to_be_done_next(given: FederationFacts, cause: Cause, level: Level) -> None:
    (found,) = decide(facts(given)).findings
    assert (found.cause, found.level) == (cause, level)
    assert bool(found.remedy) is (level is not Level.FINE)
    if level is Level.WAITING:
        assert re.findall(r"`(fedafd [^`]+)`$", found.remedy), "the command to copy"


def test_no_federation_at_all_is_no_error() -> None:
    status = decide(facts())
    assert (status.level, status.findings[0].cause) == (Level.WAITING, Cause.NO_FEDERATION)


def test_queries_that_find_no_worker_are_told_after_what_rounds_wait_for() -> None:
    running = federation(RoundFacts(row=round_row("preparing"), stages=[stage("running")]), client("north"))
    status = decide(facts(running, queries_missed_since=ago(40)))
    assert (status.level, status.findings[0].cause) == (Level.WAITING, Cause.NO_QUERY_WORKER)
    assert status.summary == (
        "queries wait: somebody tries a model version, and no query worker is running (for 40 s);"
        " start one: `fedafd queries`"
    )
    queued = federation(RoundFacts(row=round_row("queued")), client("north"))
    causes = [each.cause for each in decide(facts(queued, queries_missed_since=ago(40))).findings]
    assert causes == [Cause.STARTING, Cause.NO_QUERY_WORKER]


def test_a_regions_federation_waits_for_the_upper_one_and_nobody_is_told_to_push_or_start_anything() -> None:
    row = FederationRow(id="lungs", config={}, follows="europe")
    (found,) = decide(facts(federation(None, client("north"), row=row))).findings
    assert (found.cause, found.remedy) == (Cause.IDLE, "its rounds come from federation europe")
    delivering = RoundFacts(row=round_row("distilling"))
    delivering.row.upstream_round_id = "u"
    (found,) = decide(facts(federation(delivering, client("north"), row=row))).findings
    assert "delivers it to the upper federation" in found.words
    assert "fedafd region run" in found.remedy


def test_a_clock_that_differs_is_named_after_what_rounds_wait_for() -> None:
    status = decide(facts(federation(), clock_skews={"the aggregator a (1:2)": 20.0, "the control plane": -7300.0}))
    assert [finding.cause for finding in status.findings][-2:] == [Cause.CLOCK, Cause.CLOCK]
    words = [finding.words for finding in status.findings if finding.cause is Cause.CLOCK]
    assert words == [
        "the clock of the aggregator a (1:2) is 20 s ahead of the database's, which rounds go by",
        "the clock of the control plane is 2.0 h behind the database's, which rounds go by",
    ]
    assert all(finding.level is Level.WAITING for finding in status.findings if finding.cause is Cause.CLOCK)
