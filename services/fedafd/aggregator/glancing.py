"""Whether a round needs a look at all its rows, or a glance is enough to see that nothing can be done.

A look reads each stage and each part in the round, which grows with the clients, and most of what wakes the coordinator
is one more delivery or fold, of which nothing comes. So it reads the rows again only when something ended that it waits
for, when somebody has been silent for too long, or when a share of the cohort's stages is done: merges can begin, and
looks do not grow in number with the clients. A glance that errs delays nothing for good: once nothing is under way the
rows are looked at.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime

from fedafd.aggregator.step import Step
from fedafd.domain.merge_tree import MERGE_ARITY
from fedafd.domain.states import OPEN_PARTICIPATION_STATES, ParticipationState, RoundState, StageState
from fedafd.persistence.glance_repository import RoundGlance
from fedafd.persistence.models import RoundRow, utc_now

__all__ = ["needs_look", "takes_glances"]

_GLANCED_AT = (RoundState.COLLECTING.value, RoundState.DISTILLING.value, RoundState.EVALUATING.value)
_OPEN_STAGES = (StageState.PENDING.value, StageState.RUNNING.value)
_OPEN_PARTS = tuple(state.value for state in OPEN_PARTICIPATION_STATES)
_SHARE = 4
"""Rows are read again once as many further stages are done as a quarter of the cohort has clients: merges can begin."""


def takes_glances(row: RoundRow) -> bool:
    """Whether a glance says enough: not before there are many rows, nor where a region's process moves the round."""
    return row.state in _GLANCED_AT and row.upstream_round_id is None


def needs_look(step: Step, before: RoundGlance | None, now: RoundGlance) -> bool:
    """Whether the rows may say more than at the last look, which was at `before` or just after."""
    if before is None or _is_anyone_late(step, now):
        return True
    if _counts(now) == _counts(before):
        return False
    open_before, still_open = _open_kinds(before), _open_kinds(now)
    waits = bool(now.num_parts(*_OPEN_PARTS))
    if not waits and (not still_open or open_before - still_open or before.num_parts(*_OPEN_PARTS)):
        return True
    if _num_without(now) != _num_without(before) or now.num_stages(StageState.FAILED.value):
        return True
    cohort = sum(part.count for part in now.parts.values())
    done = now.num_stages(StageState.DONE.value) - before.num_stages(StageState.DONE.value)
    return done >= max(MERGE_ARITY, cohort // _SHARE)


def _is_anyone_late(step: Step, now: RoundGlance) -> bool:
    """Whether a client or a distiller has to be given up."""
    silent_since, alive_since = step.silent_since, step.alive_since
    for (_, _, state), group in now.stages.items():
        if state in _OPEN_STAGES and group.stepped_at < silent_since:
            return True
        if state == StageState.RUNNING.value and alive_since is not None and group.alive_at < alive_since:
            return True
    waited_for = [group for state, group in now.parts.items() if state in _OPEN_PARTS]
    return bool(waited_for) and (
        _is_past(step.row.deadline_at) or any(p.any_revoked or p.stepped_at < silent_since for p in waited_for)
    )


def _is_past(deadline: datetime | None) -> bool:
    return deadline is not None and utc_now() >= deadline


def _counts(glance: RoundGlance) -> dict[tuple[str, ...], int]:
    """What a step can follow from: a waiting stage and one at work count alike, as do clients with an open part."""
    counts: dict[tuple[str, ...], int] = {}
    for (kind, modality, state), group in glance.stages.items():
        key = (kind, modality, "open" if state in _OPEN_STAGES else state)
        counts[key] = counts.get(key, 0) + group.count
    for state, part in glance.parts.items():
        known = ("open" if state in _OPEN_PARTS else state,)
        counts[known] = counts.get(known, 0) + part.count
    return counts


def _open_kinds(glance: RoundGlance) -> Set[tuple[str, str]]:
    return {(kind, modality) for kind, modality, state in glance.stages if state in _OPEN_STAGES}


def _num_without(glance: RoundGlance) -> int:
    """Clients that the round goes on without."""
    delivered = glance.num_parts(ParticipationState.DELIVERED.value)
    return glance.num_parts(*glance.parts) - glance.num_parts(*_OPEN_PARTS) - delivered
