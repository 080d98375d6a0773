"""Collecting: wait for the cohort, fold and merge as uploads arrive, then go on or fail by the quorum."""

from __future__ import annotations

from collections.abc import Mapping

from fedafd.aggregator.step import COORDINATOR, Step
from fedafd.aggregator.weighing import Weighing, note_contributions, start_weighing, weighing_of
from fedafd.artifacts.ref import ArtifactRef
from fedafd.artifacts.stage_io import (
    DistilInputs,
    FoldInputs,
    FoldOutputs,
    MergeInputs,
    PrepareOutputs,
    SharedOutputs,
    sed_state_of,
)
from fedafd.domain.config import AveragingMode
from fedafd.domain.kinds import Modality, ParticipantKind, StageKind, UploadPurpose
from fedafd.domain.leaving import LEFT, LeaveReason, some
from fedafd.domain.merge_tree import MergePlan, plan_merges
from fedafd.domain.states import OPEN_PARTICIPATION_STATES, ParticipationState, RoundState, StageState
from fedafd.persistence.artifact_repository import earlier_representations, round_artifacts
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.look_repository import ClientLook, PartLook, StageLook, look_at_parts
from fedafd.persistence.models import utc_now
from fedafd.persistence.participation_repository import clients_in, clients_with, settle_participation
from fedafd.persistence.stage_repository import add_stage, add_stages

__all__ = ["merge_plan", "step_collecting"]

_MOST_REASONS = 3
"""That the reason of a round without its quorum tells."""
_MOST_MERGED_BYTES = 32 << 20
"""Of states that one stage merges over several levels: more are merged by several stages at the same time."""
_OPEN = frozenset(state.value for state in OPEN_PARTICIPATION_STATES)
_DELIVERED = ParticipationState.DELIVERED.value
# A look at a large round compares with these thousands of times, and an enum's value is a call.
_FOLD, _MERGE, _DONE, _CANCELLED = (
    StageKind.FOLD.value,
    StageKind.MERGE.value,
    StageState.DONE.value,
    StageState.CANCELLED.value,
)
_Cohort = list[tuple[PartLook, ClientLook]]
_Leaves = dict[int, FoldOutputs[ArtifactRef] | None]


async def step_collecting(step: Step, stages: list[StageLook]) -> bool:
    """Drop who is lost, merge what is complete, close when all are settled."""
    cohort = await look_at_parts(step.session, step.row.id)
    if await _drop_lost(step, cohort):
        return True
    if await _fold_stale(step, cohort, stages):
        return True
    leaves = {modality: _leaves(cohort, stages, modality) for modality in Modality}
    weighings = {m: weighing_of(len(cohort), leaves[m], stages, m) for m in Modality}
    await note_contributions(step, cohort, weighings)
    changed = await start_weighing(step, weighings)
    plans = {m: _plan(cohort, stages, m, leaves[m], weighings[m]) for m in Modality}
    merges = {
        (modality, ready.level, ready.position): MergeInputs(
            states=ready.children, limit=weighings[modality].limit
        ).named()
        for modality, plan in plans.items()
        for ready in plan.ready
    }
    if merges:
        there = await add_stages(step.session, step.row.id, StageKind.MERGE, merges)
        changed = changed or len(there) < len(merges)
    if any(_is_open(participation) for participation, _ in cohort):
        return changed
    missing = _quorum_missing(step, cohort)
    if missing:
        return await step.fail(f"{missing}; {step.store_trouble}" if step.store_trouble else missing)
    if not all(plan.settled for plan in plans.values()):
        return changed
    return await _close(step, stages, {m: plan.root for m, plan in plans.items() if plan.root is not None})


async def _fold_stale(step: Step, cohort: _Cohort, stages: list[StageLook]) -> bool:
    """Fold what clients without a delivery sent in an earlier round, where the configuration lets it count."""
    if step.config.distillation.staleness_decay is None:
        return False
    folding = {stage.position for stage in stages if stage.kind == StageKind.FOLD.value}
    shared = SharedOutputs.of(_prepared(stages))
    added = False
    for participation, client in cohort:
        settled_without = not _is_open(participation) and participation.state != ParticipationState.DELIVERED.value
        if not settled_without or participation.position in folding or client.revoked_at is not None:
            continue
        most = step.config.distillation.max_staleness
        earlier = await earlier_representations(step.session, client.id, step.row, most)
        if earlier is None:
            continue
        entry, age = earlier
        inputs = FoldInputs(
            client_representations=entry, global_representations=shared.global_representations, age=age
        ).named()
        for modality in ParticipantKind(client.kind).modalities:
            await add_stage(
                step.session,
                step.row.id,
                StageKind.FOLD,
                inputs,
                modality=modality,
                position=participation.position,
            )
        added = True
    return added


async def _close(step: Step, stages: list[StageLook], roots: dict[Modality, ArtifactRef]) -> bool:
    if step.row.upstream_round_id is not None:
        return await step.move(RoundState.DISTILLING)  # which the upper federation does, of the merged states
    prepared, weights = PrepareOutputs.of(_prepared(stages)), []
    if step.config.averaging is not AveragingMode.OFF:
        weights = await round_artifacts(step.session, step.row.id, UploadPurpose.WEIGHTS.value)
    inputs = DistilInputs(
        server_state=prepared.server_state,
        global_representations=prepared.global_representations,
        ensembles=roots,
        client_weights=tuple(weights),
    )
    await add_stage(step.session, step.row.id, StageKind.DISTIL, inputs.named())
    return await step.move(RoundState.DISTILLING)


async def _drop_lost(step: Step, cohort: _Cohort) -> bool:
    now = utc_now()
    late = step.row.deadline_at is not None and now >= step.row.deadline_at
    silent_since = step.silent_since
    dropped = False
    for participation, client in cohort:
        if client.revoked_at is not None:
            code, reason = LeaveReason.REVOKED, LeaveReason.REVOKED.words
        elif late:
            code, reason = LeaveReason.DEADLINE, LeaveReason.DEADLINE.words
        elif participation.last_progress_at < silent_since:
            code = LeaveReason.SILENT
            reason = f"{code.words} for {step.config.idle_timeout_seconds:g} s"
        else:
            continue
        values = {"reason": reason, "reason_code": code.value}
        if await settle_participation(step.session, participation.id, ParticipationState.DROPPED, **values):
            dropped = True
            step.dropped.append(client.id)
            record_event(
                step.session,
                "participation.dropped",
                federation_id=step.row.federation_id,
                actor=COORDINATOR,
                round=step.row.number,
                client=client.name,
                reason=reason,
                code=code.value,
            )
    return dropped


def merge_plan(cohort: _Cohort, stages: list[StageLook], modality: Modality) -> MergePlan[ArtifactRef]:
    """What of one modality's states can be merged now, and the root once all are."""
    leaves = _leaves(cohort, stages, modality)
    return _plan(cohort, stages, modality, leaves, weighing_of(len(cohort), leaves, stages, modality))


def _plan(
    cohort: _Cohort, stages: list[StageLook], modality: Modality, leaves: _Leaves, weighing: Weighing
) -> MergePlan[ArtifactRef]:
    """Who is left out is an empty leaf, so that the tree keeps its shape."""
    if weighing.is_open:
        return MergePlan((), settled=False, root=None)
    out = {position for position, contribution in weighing.contributions.items() if contribution.left_out}
    states = {position: None if leaf is None or position in out else leaf.state for position, leaf in leaves.items()}
    name = modality.value
    merges = [s for s in stages if s.kind == _MERGE and s.modality == name]
    done = [s for s in merges if s.state == _DONE and s.outputs]
    return plan_merges(
        len(cohort),
        states,
        {(s.level, s.position): sed_state_of(s.outputs or {}) for s in done},
        begun={(s.level, s.position) for s in merges},
        size_of=lambda state: state["size_bytes"],
        most_bytes=_MOST_MERGED_BYTES,
    )


def _leaves(cohort: _Cohort, stages: list[StageLook], modality: Modality) -> _Leaves:
    """Of each cohort position that is settled the outputs of its fold, or None if it delivers nothing."""
    name = modality.value
    folds = [s for s in stages if s.kind == _FOLD and s.modality == name]
    done = [s for s in folds if s.state == _DONE and s.outputs]
    folded = {s.position: FoldOutputs.of(s.outputs or {}) for s in done}
    folding = {s.position for s in folds if s.state != _CANCELLED}
    leaves: _Leaves = {}
    for participation, client in cohort:
        position = participation.position
        if position in folded:
            leaves[position] = folded[position]
            continue
        delivers = (_is_open(participation) or participation.state == _DELIVERED) and bool(
            clients_with(participation, client, modality)
        )
        if not delivers and position not in folding:
            leaves[position] = None
    return leaves


def _prepared(stages: list[StageLook]) -> Mapping[str, ArtifactRef]:
    return next(stage for stage in stages if stage.kind == StageKind.PREPARE.value).outputs or {}


def _quorum_missing(step: Step, cohort: _Cohort) -> str | None:
    delivered = [(part, client) for part, client in cohort if part.state == _DELIVERED]
    quorum = step.config.quorum
    counts = {"": (sum(clients_in(part, client) for part, client in delivered), quorum.min_clients)}
    for modality, needed in ((Modality.IMAGE, quorum.min_image_clients), (Modality.TEXT, quorum.min_text_clients)):
        holders = sum(clients_with(part, client, modality) for part, client in delivered)
        counts[f" with {modality.value} representations"] = (holders, needed)
    short = [f"{count} of {needed} deliveries{what}" for what, (count, needed) in counts.items() if count < needed]
    if not short:
        return None
    return "; ".join([f"quorum not reached: {', '.join(short)}", *_why_without_a_delivery(cohort)])


def _why_without_a_delivery(cohort: _Cohort) -> list[str]:
    """The clients' own reasons, those of most clients first, a few of them: all of them stand with their parts."""
    by_reason: dict[str, list[str]] = {}
    for part, client in cohort:
        if part.state != _DELIVERED and part.reason:
            by_reason.setdefault(part.reason.removeprefix(LEFT), []).append(client.name)
    often = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    said = [f"{some(names)}: {reason}" for reason, names in often[:_MOST_REASONS]]
    return said if len(often) <= _MOST_REASONS else [*said, f"{len(often) - _MOST_REASONS} other reasons"]


def _is_open(participation: PartLook) -> bool:
    return participation.state in _OPEN
