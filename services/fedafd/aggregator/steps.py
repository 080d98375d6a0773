"""What the coordinator does with a round in each state. Each step is one transaction; True if it changed something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fedafd.aggregator.collecting import step_collecting
from fedafd.aggregator.distillation_service import MAX_STAGE_FAILURES
from fedafd.aggregator.inviting import invite
from fedafd.aggregator.publishing import publish_version
from fedafd.aggregator.step import COORDINATOR, Step
from fedafd.artifacts.stage_io import DistilOutputs, EvaluateInputs, PrepareInputs, server_state_ref
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import ParticipationState, RoundState, StageState
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.look_repository import StageLook, look_at_parts, look_at_stages
from fedafd.persistence.model_repository import find_version
from fedafd.persistence.models import utc_now
from fedafd.persistence.stage_repository import add_stage, announce_again

__all__ = ["Step", "step_round"]

_OPEN = (StageState.PENDING.value, StageState.RUNNING.value)
_MOST_NAMED = 100
"""Clients that an event names; REST has them all."""


async def step_round(step: Step) -> bool:
    """Move one round as far as one transaction goes."""
    stages = await look_at_stages(step.session, step.row.id)
    failed = next((stage for stage in stages if stage.state == StageState.FAILED.value and not _is_repeat(stage)), None)
    if failed is not None:
        name = f"{failed.kind} {failed.modality}".strip()
        return await step.fail(f"stage {name} failed: {failed.reason}")
    if await _revive(step, stages):
        return True
    return await _STEPS[RoundState(step.row.state)](step, stages)


def _is_repeat(stage: StageLook) -> bool:
    """Whether it makes again what the store has lost; who needs that finds out by itself if it cannot be made."""
    return stage.kind == StageKind.PREPARE.value and stage.level > 0


async def _revive(step: Step, stages: list[StageLook]) -> bool:
    """Offer again what nobody works on: the distiller died, or makes no step, or the message never came."""
    silent_since = step.silent_since
    idle = [stage for stage in stages if stage.state in _OPEN and stage.last_progress_at < silent_since]
    alive_since, running = step.alive_since, [s for s in stages if s.state == StageState.RUNNING.value]
    lost = [] if alive_since is None else [stage for stage in running if stage.alive_at < alive_since]
    for stage in {stage.id: stage for stage in (*idle, *lost)}.values():
        if stage.state != StageState.RUNNING.value:
            await announce_again(step.session, stage, failures=stage.failures)
            continue
        failures = stage.failures + 1
        step.lost.append(stage.kind)
        what = "lost its distiller" if stage in lost else "made no step"
        if failures >= MAX_STAGE_FAILURES:
            return await step.fail(
                f"stage {stage.kind} {what} {failures} times, last {stage.worker}: the process ended or hung while it"
                " worked on this stage; look at the distiller's log and at its memory"
            )
        _record_lost(step, stage, f"{what}: {stage.worker}")
        await announce_again(step.session, stage, failures=failures)
    return bool(idle or lost)


def _record_lost(step: Step, stage: StageLook, reason: str) -> None:
    record_event(
        step.session,
        "stage.lost",
        federation_id=step.row.federation_id,
        actor=COORDINATOR,
        round=step.row.number,
        stage=stage.kind,
        reason=reason,
    )


async def _step_queued(step: Step, _: list[StageLook]) -> bool:
    # Locked: retention does not let go meanwhile what the round starts from.
    federation = await get_federation(step.session, step.row.federation_id, lock=True)
    version = await find_version(step.session, federation.id, federation.current_version)
    state = None
    if version is not None:
        size = await step.artifact_size(version.state_key)
        state = server_state_ref(version.state_key, version.state_sha256, size)
    await add_stage(step.session, step.row.id, StageKind.PREPARE, PrepareInputs(server_state=state).named())
    return await step.move(RoundState.PREPARING, base_version=federation.current_version, started_at=utc_now())


async def _step_preparing(step: Step, stages: list[StageLook]) -> bool:
    prepared = _done(stages, StageKind.PREPARE)
    return prepared is not None and await invite(step, prepared)


async def _step_distilling(step: Step, stages: list[StageLook]) -> bool:
    if step.row.upstream_round_id is not None:
        # The region's process has to deliver, and notes the receipt in the row.
        return step.row.upstream_receipt is not None and await step.move(RoundState.EVALUATING)
    distilled = _done(stages, StageKind.DISTIL)
    if distilled is None:
        return False
    state = DistilOutputs.of(distilled.outputs or {}).server_state
    await add_stage(step.session, step.row.id, StageKind.EVALUATE, EvaluateInputs(server_state=state).named())
    return await step.move(RoundState.EVALUATING)


async def _step_evaluating(step: Step, stages: list[StageLook]) -> bool:
    if step.row.upstream_round_id is not None:
        return await _complete(step)
    evaluated = _done(stages, StageKind.EVALUATE)
    if evaluated is None:
        return False
    if not await _complete(step, evaluated.metrics):
        return False
    await publish_version(step, evaluated)
    return True


async def _complete(step: Step, metrics: Mapping[str, float] | None = None) -> bool:
    if not await step.move(RoundState.COMPLETED, metrics=dict(metrics or {})):
        return False
    await _record_completed(step)
    return True


async def _record_completed(step: Step) -> None:
    """The event of a round that went on to its end: who delivered, and whom it went on without and why."""
    parts = await look_at_parts(step.session, step.row.id)
    delivered = ParticipationState.DELIVERED.value
    missing = [(part, client.name) for part, client in parts if part.state != delivered]
    named = [
        {"client": name, "state": part.state, "code": part.reason_code, "reason": part.reason}
        for part, name in missing[:_MOST_NAMED]
    ]
    record_event(
        step.session,
        "round.completed",
        federation_id=step.row.federation_id,
        actor=COORDINATOR,
        round=step.row.number,
        num_delivered=len(parts) - len(missing),
        num_missing=len(missing),
        missing=named,
    )


def _done(stages: list[StageLook], kind: StageKind) -> StageLook | None:
    return next((s for s in stages if s.kind == kind.value and s.state == StageState.DONE.value), None)


_STEPS: dict[RoundState, Callable[[Step, list[StageLook]], Awaitable[bool]]] = {
    RoundState.QUEUED: _step_queued,
    RoundState.PREPARING: _step_preparing,
    RoundState.COLLECTING: step_collecting,
    RoundState.DISTILLING: _step_distilling,
    RoundState.EVALUATING: _step_evaluating,
}
