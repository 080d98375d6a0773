"""The coordinator reads a round's rows when something may come of it, not with each delivery and each fold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from tests.aggregator.world import World

from fedafd.aggregator import coordinator
from fedafd.aggregator.glancing import needs_look, takes_glances
from fedafd.aggregator.steps import Step, step_round
from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import ClientKind, StageKind
from fedafd.persistence.glance_repository import Parts, RoundGlance, Stages, glance_at_round
from fedafd.persistence.models import RoundRow, utc_now
from fedafd.persistence.participation_repository import list_participations
from fedafd.persistence.stage_repository import list_stages

CLIENTS = 12


def stages(now: datetime, *, waiting: int = 0, done: int = 0, failed: int = 0) -> dict[tuple[str, str, str], Stages]:
    counts = {"pending": waiting, "done": done, "failed": failed}
    return {("fold", "image", state): Stages(count, now, now) for state, count in counts.items() if count}


def parts(now: datetime, **counts: int) -> dict[str, Parts]:
    return {state: Parts(count, now, any_revoked=False) for state, count in counts.items() if count}


def step(**values: Any) -> Step:
    row = RoundRow(state="collecting", config=FederationConfig(name="trial").model_dump(mode="json"), **values)
    return Step(AsyncSession(), row, 1)


async def test_a_round_is_read_as_often_whether_or_not_many_deliver_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: Counter[str] = Counter()

    async def counted(step: Step) -> bool:
        looks[step.row.state] += 1
        return await step_round(step)

    monkeypatch.setattr(coordinator, "step_round", counted)
    callers = [await world.enrol(f"site-{number:02d}") for number in range(CLIENTS)]
    round_id = await world.start_round()
    await world.prepare()
    for caller in callers:
        assert (await world.deliver(caller, round_id, world.reps())).accepted
        await world.coordinate()
    for _ in range(CLIENTS):
        await world.distil(StageKind.FOLD, nth=0, sed_state=b"sed")
        del world.sent[next(i for i, (kind, _) in enumerate(world.sent) if kind is StageKind.FOLD)]
    assert looks["collecting"] <= 8  # and not one with each of 24 changes
    while (await world.round(round_id)).state == "collecting":
        await world.distil(StageKind.MERGE, nth=0, sed_state=b"merged")
        del world.sent[next(i for i, (kind, _) in enumerate(world.sent) if kind is StageKind.MERGE)]
    assert (await world.round(round_id)).state == "distilling"


async def test_a_glance_adds_up_to_the_rows(world: World) -> None:
    callers = [await world.enrol(f"site-{number}", ClientKind.PAIR) for number in range(3)]
    round_id = await world.start_round()
    await world.prepare()
    async with world.context.database.snapshot() as session:
        glance = await glance_at_round(session, round_id)
        listed = await list_stages(session, round_id)
        cohort = await list_participations(session, round_id)
    assert len(callers) == glance.num_parts("invited") == len(cohort)
    assert glance.parts["invited"].stepped_at == min(part.last_progress_at for part, _ in cohort)
    assert not glance.parts["invited"].any_revoked
    assert glance.stages["prepare", "", "done"] == Stages(1, listed[0].last_progress_at, listed[0].alive_at)


def test_more_of_the_same_needs_no_look_until_a_group_can_merge() -> None:
    now = utc_now()
    before = RoundGlance(stages(now, waiting=1), parts(now, training=20, delivered=1))
    for done, needed in ((1, False), (7, False), (8, True)):
        after = RoundGlance(stages(now, waiting=1, done=done), parts(now, training=20 - done, delivered=1 + done))
        assert needs_look(step(), before, after) is needed
    assert needs_look(step(), None, before)
    assert not needs_look(step(), before, before)


def test_the_last_delivery_and_the_last_fold_need_a_look() -> None:
    now = utc_now()
    waiting = RoundGlance(stages(now, waiting=2, done=1), parts(now, training=1, delivered=2))
    all_here = RoundGlance(stages(now, waiting=2, done=1), parts(now, delivered=3))
    folded = RoundGlance(stages(now, done=3), parts(now, delivered=3))
    assert needs_look(step(), waiting, all_here)
    assert needs_look(step(), all_here, folded)
    assert not needs_look(step(), folded, folded)


def test_who_goes_or_fails_needs_a_look() -> None:
    now = utc_now()
    before = RoundGlance(stages(now, waiting=2), parts(now, training=3))
    assert needs_look(step(), before, replace(before, parts=parts(now, training=2, dropped=1)))
    assert needs_look(step(), before, replace(before, parts=parts(now, training=2, rejected=1)))
    assert needs_look(step(), before, replace(before, stages=stages(now, waiting=1, failed=1)))
    assert needs_look(step(), before, replace(before, parts={"training": Parts(3, now, any_revoked=True)}))


def test_silence_needs_a_look_though_nothing_changed() -> None:
    now, config = utc_now(), FederationConfig(name="trial")
    ago = now - timedelta(seconds=config.idle_timeout_seconds + 1)
    fresh = RoundGlance({("fold", "image", "running"): Stages(1, now, now)}, parts(now, training=3))
    assert not needs_look(step(), fresh, fresh)
    for still in (
        replace(fresh, parts=parts(ago, training=3)),
        replace(fresh, stages={("fold", "image", "running"): Stages(1, ago, now)}),
        replace(fresh, stages={("fold", "image", "pending"): Stages(1, ago, ago)}),
    ):
        assert needs_look(step(), still, still)
    lost = replace(fresh, stages={("fold", "image", "running"): Stages(1, now, now - timedelta(seconds=20))})
    assert not needs_look(step(), lost, lost)
    assert needs_look(replace(step(), alive_since=now - timedelta(seconds=15)), lost, lost)
    late = step(deadline_at=now - timedelta(seconds=1))
    assert needs_look(late, fresh, fresh)
    settled = RoundGlance(stages(now, done=3), parts(ago, delivered=3))
    assert not needs_look(late, settled, settled)


def test_regions_and_rounds_that_begin_are_looked_at_always() -> None:
    assert takes_glances(RoundRow(state="collecting"))
    assert not takes_glances(RoundRow(state="preparing"))
    assert not takes_glances(RoundRow(state="collecting", upstream_round_id="0" * 32))
