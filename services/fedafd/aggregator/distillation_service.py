"""DistillationService: what distillers call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from fedafd.aggregator.claiming import Claimed, claim, claim_next
from fedafd.aggregator.context import Context
from fedafd.aggregator.fallback import older_inputs
from fedafd.aggregator.identity import require_internal
from fedafd.aggregator.lost_delivery import take_back
from fedafd.aggregator.numbers import check_finite
from fedafd.aggregator.types import Call
from fedafd.artifacts.keys import RoundObjects
from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import InvalidRequestError, StageLostError
from fedafd.domain.kinds import CLAIMED_TOGETHER, FOLDS_TOGETHER, Modality, StageKind
from fedafd.domain.plain_text import plain_text
from fedafd.domain.seeds import derive_seed
from fedafd.domain.states import StageState
from fedafd.persistence.artifact_repository import NewArtifact, add_artifacts
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import RoundRow, StageRow, utc_now
from fedafd.persistence.round_repository import config_of_round
from fedafd.persistence.settling_repository import Completion, complete_stages
from fedafd.persistence.stage_repository import (
    announce_again,
    forgive_strike,
    free_stage,
    get_stage,
    get_stages,
    maker_of,
    note_stage_progress,
    renew_companions,
    renew_stage,
    settle_stage,
)
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceServicer
from fedafd.rpc.codes import wire_modality, wire_stage_kind
from fedafd.telemetry.logging import add_context, get_logger

__all__ = ["MAX_STAGE_FAILURES", "DistillationService"]

MAX_STAGE_FAILURES = 3
"""A round fails when one of its stages has failed, or its distiller has fallen silent, this many times."""

_log = get_logger(__name__)


class DistillationService(DistillationServiceServicer):
    """Claims, progress and results of stages."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def ClaimStage(self, request: pb.ClaimStageRequest, call: Call) -> pb.ClaimStageResponse:
        require_internal(self._context, call)
        async with self._context.database.transaction() as session:
            stage, row = await get_stage(session, request.stage_id)
            worker, most = plain_text(request.worker), min(request.most_companions, FOLDS_TOGETHER - 1)
            if stage.kind in CLAIMED_TOGETHER and most > 0:
                stage = await free_stage(session, stage, worker)
            claimed = await claim(session, stage, row, worker, most)
        add_context(federation=row.federation_id, round_number=row.number)
        self._context.wakeups.changed(row.federation_id, clients=(), rounds=False)
        return self._described(claimed)

    async def ReportStageProgress(
        self, request: pb.ReportStageProgressRequest, call: Call
    ) -> pb.ReportStageProgressResponse:
        require_internal(self._context, call)
        async with self._context.database.transaction() as session:
            if not request.alive_only and not 0 <= request.fraction <= 1:  # also what is no number
                raise InvalidRequestError("fraction must be a number from 0 to 1")
            if request.alive_only:
                renewed = await renew_stage(session, request.stage_id, request.token)
                if not renewed:
                    await forgive_strike(session, request.stage_id, request.token)
                if request.with_companions:
                    await renew_companions(session, request.stage_id, stepped=False)
                return pb.ReportStageProgressResponse(keep_going=renewed)
            renewed = await note_stage_progress(
                session, request.stage_id, request.token, request.fraction, plain_text(request.activity)
            )
            if not renewed:
                await forgive_strike(session, request.stage_id, request.token)
            if request.with_companions:
                await renew_companions(session, request.stage_id, stepped=True)
            _, row = await get_stage(session, request.stage_id)
        self._context.wakeups.changed(row.federation_id, clients=(), rounds=False)
        return pb.ReportStageProgressResponse(keep_going=renewed)

    async def CompleteStage(self, request: pb.CompleteStageRequest, call: Call) -> pb.CompleteStageResponse:
        require_internal(self._context, call)
        completions = [_completion(one) for one in (request, *request.companions)]
        async with self._context.database.transaction() as session:
            stages = await get_stages(session, [completion.stage_id for completion in completions])
            lost = await complete_stages(session, completions)
            for completion in completions:
                if completion.stage_id in lost:
                    stage, _ = stages[completion.stage_id]
                    words = f"stage {stage.id}: token {completion.token} no longer holds it; it is {stage.state}"
                    if len(completions) == 1:
                        raise StageLostError(words)
                    _log.info("stage.lost", stage_id=stage.id, reason=words)
            await add_artifacts(session, _artifacts_of(completions, stages, lost))
        _, row = stages[request.stage_id]
        add_context(federation=row.federation_id, round_number=row.number)
        goes_on = request.takes_next and not lost
        following = await claim_next(self._context, row, stages[request.stage_id][0]) if goes_on else None
        # Who has the next stage has seen to all that the coordinator could do.
        self._context.wakeups.changed(row.federation_id, clients=(), rounds=following is None)
        answer = pb.CompleteStageResponse(lost_stage_ids=sorted(lost))
        if following is not None:
            answer.next.CopyFrom(self._described(following))
        return answer

    async def DescribeMaker(self, request: pb.DescribeMakerRequest, call: Call) -> pb.DescribeMakerResponse:
        require_internal(self._context, call)
        async with self._context.database.transaction() as session:
            stage, row = await get_stage(session, request.stage_id)
            maker, its_round = await maker_of(session, row.federation_id, request.key)
            record_event(
                session,
                "artifact.unusable",
                federation_id=row.federation_id,
                actor=f"distiller:{stage.worker}",
                round=row.number,
                stage=stage.kind,
                key=request.key,
                maker=maker.kind,
            )
        description = _description(maker, its_round, config_of_round(its_round), 0)
        return pb.DescribeMakerResponse(maker=description)

    async def FailStage(self, request: pb.FailStageRequest, call: Call) -> pb.FailStageResponse:
        require_internal(self._context, call)
        async with self._context.database.transaction() as session:
            stage, row = await get_stage(session, request.stage_id)
            worker, blameless = stage.worker, request.handed_back or request.outage
            failures = stage.failures + (0 if blameless else 1)
            again = request.handed_back or (request.retryable and failures < MAX_STAGE_FAILURES)
            if request.outage:
                again = not _is_late(row)
            inputs = await older_inputs(session, stage, row, request.bad_input, plain_text(request.reason[:2000]))
            if inputs is not None:
                again, failures = True, stage.failures
            new = StageState.PENDING if again else StageState.FAILED
            asked = await take_back(session, stage, row, request.bad_input)
            if asked is not None:
                again, failures, new = False, stage.failures + 1, StageState.CANCELLED
            reason = plain_text(request.reason[:2000])
            values = {"reason": reason, "failures": failures, "worker": None if again else worker}
            values |= {} if inputs is None else {"inputs": inputs}
            if not await settle_stage(session, stage.id, request.token, new, **values):
                raise StageLostError(f"stage {stage.id}: token {request.token} no longer holds it")
            if again:
                stage, _ = await get_stage(session, stage.id)
                await announce_again(session, stage, failures=failures)
            record_event(
                session,
                "stage.handed_back" if request.handed_back else "stage.failed",
                federation_id=row.federation_id,
                actor=f"distiller:{worker}",
                round=row.number,
                stage=stage.kind,
                reason=reason,
                will_retry=again or asked is not None,
            )
        if not request.handed_back:
            self._context.metrics.stage_failures.labels(kind=stage.kind).inc()
        self._context.wakeups.changed(row.federation_id, clients=() if asked is None else (asked,))
        return pb.FailStageResponse()

    def _described(self, claimed: Claimed) -> pb.ClaimStageResponse:
        """The answer to a claim."""
        for since in claimed.announced_at:
            waited = max((utc_now() - since).total_seconds(), 0.0)
            self._context.metrics.stage_wait_seconds.labels(kind=claimed.stage.kind).observe(waited)
        config = config_of_round(claimed.row)
        answer = _description(claimed.stage, claimed.row, config, claimed.token)
        answer.lease.FromTimedelta(self._context.stage_lease)
        answer.stage_id = claimed.stage.id
        if claimed.row.deadline_at is not None:
            answer.until_deadline.FromTimedelta(max(claimed.row.deadline_at - utc_now(), timedelta()))
        answer.companions.extend(_companion(companion) for companion in claimed.companions)
        return answer


def _completion(request: pb.CompleteStageRequest) -> Completion:
    """What is told of a stage. Raises InvalidRequestError."""
    check_finite(request.metrics)
    return Completion(
        stage_id=request.stage_id,
        token=request.token,
        outputs={output.name: _entry(output) for output in request.outputs},
        metrics=dict(request.metrics),
    )


def _artifacts_of(
    completions: Sequence[Completion], stages: Mapping[str, tuple[StageRow, RoundRow]], lost: Collection[str]
) -> list[NewArtifact]:
    """What the stages made, to be registered; of one that was completed before it is registered already."""
    artifacts = []
    for completion in completions:
        stage, row = stages[completion.stage_id]
        if completion.stage_id not in lost and stage.state != StageState.DONE.value:
            artifacts += [
                NewArtifact(row.federation_id, entry, round_id=row.id) for entry in completion.outputs.values()
            ]
    return artifacts


def _companion(stage: StageRow) -> pb.Companion:
    return pb.Companion(
        stage_id=stage.id,
        token=stage.attempt,
        inputs=_inputs(stage),
        modality=wire_modality(Modality(stage.modality) if stage.modality else None),
    )


def _inputs(stage: StageRow) -> list[pb.NamedArtifact]:
    return [pb.NamedArtifact(name=name, artifact=types_pb2.Artifact(**entry)) for name, entry in stage.inputs.items()]


def _is_late(row: RoundRow) -> bool:
    return row.deadline_at is not None and utc_now() >= row.deadline_at


def _description(stage: StageRow, row: RoundRow, config: FederationConfig, token: int) -> pb.ClaimStageResponse:
    return pb.ClaimStageResponse(
        token=token,
        kind=wire_stage_kind(StageKind(stage.kind)),
        federation_id=row.federation_id,
        round_id=row.id,
        round_number=row.number,
        seed=derive_seed(config.seed, row.number, "server", stage.kind),
        federation_config_json=config.canonical_json(),
        public_set_sha256=row.public_set_sha256,
        inputs=_inputs(stage),
        output_prefix=RoundObjects(row.federation_id, row.number).artifacts,
        modality=wire_modality(Modality(stage.modality) if stage.modality else None),
    )


def _entry(output: pb.NamedArtifact) -> ArtifactRef:
    artifact = output.artifact
    if len(artifact.sha256) != 64 or not artifact.key:
        raise InvalidRequestError(f"output {output.name}: needs a SHA-256 and a key")
    if artifact.size_bytes < 0:
        raise InvalidRequestError(f"output {output.name}: size_bytes is {artifact.size_bytes}; must be 0 or more")
    return {
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "purpose": artifact.purpose or output.name,
        "key": artifact.key,
    }
