"""From a stage's id to its completion: claim, fetch inputs, work, store outputs, complete. Counts once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import lru_cache, partial
from time import monotonic, perf_counter
from typing import Literal

from fedafd.artifacts.keys import RoundObjects
from fedafd.artifacts.stage_io import MODEL_FILE, SERVER_STATE, model_path
from fedafd.distiller.claims import Claimed, Results, RoundOfFolds, Shared, claimed_stages
from fedafd.distiller.client import FINISHED_GIVE_UP_SECONDS, DistillationClient
from fedafd.distiller.heartbeat import Heartbeat
from fedafd.distiller.inputs import StageInputs
from fedafd.distiller.kept_outputs import KeptOutputs
from fedafd.distiller.kept_progress import ProgressKeeper
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.patience import Patience, is_outage
from fedafd.distiller.public_sets import PublicSets
from fedafd.distiller.shutdown import Shutdown, StageHandedBackError
from fedafd.distiller.side_by_side import SideBySide
from fedafd.distiller.stages import Decoded, StageResult, StageWork, run_stage
from fedafd.distiller.storing import TOGETHER_BYTES, Outputs, Storing
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.errors import (
    FedafdError,
    NotFoundError,
    StageLostError,
)
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import StageKind
from fedafd.learning.waypoints import NOWHERE, Waypoints
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.rpc.codes import modality_from_wire, stage_kind_from_wire
from fedafd.storage import ObjectStore
from fedafd.storage.store import BatchStore, put_all, twice_stored
from fedafd.telemetry.logging import bind_context, get_logger
from fedafd.telemetry.tracing import note, span, span_below

__all__ = ["StageRunner"]

_log = get_logger(__name__)
_Stored = Future[tuple[pb.CompleteStageRequest, float]]


class StageRunner:
    """Runs stages one after the other."""

    def __init__(
        self,
        client: DistillationClient,
        store: ObjectStore,
        public_sets: PublicSets,
        device: str,
        metrics: DistillerMetrics,
        shutdown: Shutdown,
        processes: int | Literal["auto"] = "auto",
        patience: Patience | None = None,
        threads: int = 1,
        keeper: ProgressKeeper | None = None,
    ) -> None:
        """`threads`: CPU threads for stages that are worked on at the same time. `keeper`: keeps how far they came."""
        self._threads = threads
        self._client, self._store, self._public_sets = client, store, public_sets
        self._patience = patience or Patience()
        self._device, self._processes, self._keeper = device, processes, keeper
        self._metrics, self._shutdown = metrics, shutdown
        self._together_bytes = TOGETHER_BYTES if isinstance(store, BatchStore) else 0
        self._kept, self._folds = KeptOutputs(), RoundOfFolds()
        self.busy = False

    def run(self, stage_id: str, traceparent: str | None = None) -> None:
        """Do one stage, and those that the round goes on with; one that somebody else holds or that is settled is left
        alone. `traceparent` is the trace that the message belongs to.
        """
        with self._metrics.busy.track_inprogress():
            self.busy = True
            try:
                following: pb.ClaimStageResponse | None = None
                while stage_id:
                    with span_below(traceparent, "stage", kind="CONSUMER"):
                        following = self._run(stage_id, following)
                    stage_id = "" if following is None else following.stage_id
            finally:
                self.busy = False

    def _run(self, stage_id: str, claim: pb.ClaimStageResponse | None) -> pb.ClaimStageResponse | None:
        """Do one stage, claimed already or not; the one that follows, claimed, if there is one."""
        try:
            claim = claim or self._client.claim(stage_id)
        except (StageLostError, NotFoundError) as error:
            _log.info("stage.not_ours", stage_id=stage_id, reason=str(error))
            return None
        except (FedafdError, StageHandedBackError) as error:
            # The coordinator offers again what nobody claimed.
            _log.warning("stage.not_claimed", stage_id=stage_id, reason=str(error))
            return None
        kind = stage_kind_from_wire(claim.kind).value
        note(stage=kind, federation=claim.federation_id, round=claim.round_number)
        with bind_context(federation=claim.federation_id, round_number=claim.round_number, stage=kind):
            stages = claimed_stages(stage_id, claim)
            _log.info("stage.started", stage_id=stages[0].stage_id, attempt=claim.token, companions=len(stages) - 1)
            outcomes, following = self._settled(stages)
            for outcome in outcomes.values():
                self._metrics.stages.labels(kind=kind, outcome=outcome).inc()
        return following

    def _settled(self, stages: Sequence[Claimed]) -> tuple[dict[Claimed, str], pb.ClaimStageResponse | None]:
        """Work on stages that were claimed together, and settle each; the outcomes, and the stage to go on with."""
        results = Results()
        main = stages[0]
        self._kept.enter(main.claim.federation_id, main.claim.round_number, stage_kind_from_wire(main.claim.kind))
        put = partial(self._put, kept_until=monotonic() + _kept_seconds(main.claim))
        with (
            self._folds.shared(main.claim) as shared,
            Heartbeat(self._client, main.stage_id, main.claim, self._shutdown) as heartbeat,
            self._patience.telling(heartbeat.wait),
            Storing[pb.CompleteStageRequest](put, together_bytes=self._together_bytes) as storing,
            SideBySide[_Stored](threads=self._threads) as working,
        ):
            begun: dict[Claimed, tuple[Future[_Stored], float]] = {}
            for number, stage in enumerate(stages):
                began = perf_counter()
                try:
                    if number:
                        heartbeat.step(number / len(stages), f"stage {number + 1} of {len(stages)}")
                    work = self._prepared(stage, heartbeat, shared)
                    begun[stage] = working.begin(work, partial(self._work, stage, work, storing)), began
                except (StageLostError, StageHandedBackError) as error:
                    results.left = dict.fromkeys(stages[number:], error)
                    break
                except Exception as error:
                    if is_outage(error):  # which has lasted as long as one waits for it
                        results.failed |= dict.fromkeys(stages[number:], error)
                        break
                    # The others go on: each is settled for itself.
                    results.failed[stage] = error
            wait(future for future, _ in begun.values())
            storing.flush()
            self._await_stored(begun, results, stage_kind_from_wire(main.claim.kind).value)
        outcomes, following = self._completed(results)
        reached = True
        for stage, failure in results.failed.items():
            reached = reached and self._give_up(stage, failure)
            outcomes[stage] = "failed"
        return outcomes | self._left(results.left, claimed=len(stages)), following

    def _await_stored(
        self, begun: Mapping[Claimed, tuple[Future[_Stored], float]], results: Results, kind: str
    ) -> None:
        """Wait until all outputs are stored; by stage what tells so, and when the stage began."""
        for stage, (worked, began) in begun.items():
            try:
                results.done[stage], ended = worked.result().result()
            except (StageLostError, StageHandedBackError) as error:
                results.left[stage] = error
            except Exception as error:
                results.failed[stage] = error
            else:
                self._metrics.stage_seconds.labels(kind=kind).observe(ended - began)

    def _completed(self, results: Results) -> tuple[dict[Claimed, str], pb.ClaimStageResponse | None]:
        done = results.done
        if not done:
            return {}, None
        # Who still has something to give back, or ends, takes nothing new.
        takes_next = not (results.failed or results.left or self._shutdown.begun)
        try:
            answer = self._client.complete(list(done.values()), takes_next=takes_next)
        except (StageLostError, StageHandedBackError) as error:
            return self._left(dict.fromkeys(done, error), claimed=len(done)), None
        except FedafdError as error:
            results.failed |= dict.fromkeys(done, error)
            return {}, None
        lost = frozenset(answer.lost_stage_ids)
        for completion in done:
            _log.info("stage.lost" if completion.stage_id in lost else "stage.done", stage_id=completion.stage_id)
        outcomes = {completion: "lost" if completion.stage_id in lost else "done" for completion in done}
        return outcomes, answer.next if answer.HasField("next") else None

    def _left(self, left: Mapping[Claimed, Exception], *, claimed: int) -> dict[Claimed, str]:
        """Give back what was not settled of `claimed` stages; a lost one is another worker's by now."""
        outcomes, reached = {}, True
        for stage, error in left.items():
            lost, reason = isinstance(error, StageLostError), str(error)
            _log.warning("stage.lost" if lost else "stage.handed_back", stage_id=stage.stage_id, reason=reason)
            outcomes[stage] = "lost" if lost else "handed_back"
            if reached and not (lost and claimed == 1):
                reached = self._tell(stage, partial(self._client.hand_back, reason=reason))
        return outcomes

    def _prepared(self, stage: Claimed, heartbeat: Heartbeat, shared: Shared) -> StageWork:
        """The stage with its inputs in memory."""
        claim = stage.claim
        inputs = StageInputs(
            self._client,
            self._store,
            self._patience,
            self._metrics,
            stage_id=stage.stage_id,
            redo=lambda maker, given: run_stage(self._described(maker, given, heartbeat.step)),
            kept=self._kept,
        )
        given = {item.name: shared.read(item, inputs) for item in claim.inputs}
        waypoints = NOWHERE if self._keeper is None else self._keeper.waypoints(stage)
        return self._described(claim, given, heartbeat.step, shared.decoded, waypoints)

    def _work(self, stage: Claimed, work: StageWork, storing: Storing[pb.CompleteStageRequest]) -> _Stored:
        """Do the stage's work, and begin to store its outputs."""
        with span("work"):
            result = run_stage(work)
        return storing.begin(partial(self._outputs, stage, result), sum(map(len, result.outputs.values())))

    def _described(
        self,
        claim: pb.ClaimStageResponse,
        inputs: Mapping[str, bytes],
        progress: Callable[[float, str], None],
        decoded: Decoded | None = None,
        waypoints: Waypoints = NOWHERE,
    ) -> StageWork:
        return StageWork(
            kind=stage_kind_from_wire(claim.kind),
            config=_config_of(claim.federation_config_json),
            federation_id=claim.federation_id,
            round_number=claim.round_number,
            seed=claim.seed,
            public_set_sha256=claim.public_set_sha256,
            modality=modality_from_wire(claim.modality),
            inputs=inputs,
            split=self._public_sets.open(claim.public_set_sha256).split,
            device=self._device,
            processes=self._processes,
            progress=progress,
            decoded=decoded or Decoded(),
            waypoints=waypoints,
        )

    def _outputs(self, stage: Claimed, result: StageResult) -> Outputs[pb.CompleteStageRequest]:
        """What the stage leaves in the store, and how it is completed then."""
        claim = stage.claim
        done = pb.CompleteStageRequest(stage_id=stage.stage_id, token=claim.token, metrics=result.metrics)
        objects: dict[str, bytes] = {}
        read = {given.artifact.key for given in claim.inputs}
        for name, content in result.outputs.items():
            sha256 = result.sha256.get(name) or sha256_of(content)
            purpose, key = _purpose_and_key(claim, name, sha256)
            twice = name == SERVER_STATE and stage_kind_from_wire(claim.kind) is StageKind.EVALUATE
            # A version's state is hours of work, and its copy a small part of the store.
            self._kept.keep(sha256, content)
            objects |= twice_stored(key, content, is_there=key in read) if twice else {key: content}
            self._metrics.bytes_written.inc(len(content))
            artifact = types_pb2.Artifact(sha256=sha256, size_bytes=len(content), purpose=purpose, key=key)
            done.outputs.add(name=name, artifact=artifact)
        return Outputs(objects, done)

    def _put(self, objects: Mapping[str, bytes], *, kept_until: float = 0.0) -> None:
        """What is computed is kept until `kept_until`, by monotonic, while the store is away."""
        with span("store outputs"):
            put = partial(put_all, self._store, objects)
            self._patience.through(put, at_least_seconds=max(0.0, kept_until - monotonic()))

    def _give_up(self, stage: Claimed, error: Exception) -> bool:
        """Say that the stage failed; False if nobody could be reached."""
        outage = is_outage(error)
        retryable = outage or (isinstance(error, FedafdError) and error.retryable)
        reason = str(error) if isinstance(error, FedafdError) else f"{type(error).__name__}: {error}"
        trace = None if outage else error
        _log.error("stage.failed", stage_id=stage.stage_id, reason=reason, retryable=retryable, exc_info=trace)
        bad = str(error.data.get("input", "")) if isinstance(error, FedafdError) else ""
        fail = partial(self._client.fail, reason=reason, retryable=retryable, outage=outage, bad_input=bad)
        return self._tell(stage, fail)

    def _tell(self, stage: Claimed, call: Callable[[str, int], None]) -> bool:
        """Say what became of a stage; False if nobody could be reached."""
        try:
            call(stage.stage_id, stage.claim.token)
        except (FedafdError, StageHandedBackError) as refused:
            _log.warning("stage.failure_not_taken", stage_id=stage.stage_id, reason=str(refused))
            return isinstance(refused, FedafdError) and not refused.retryable
        return True


def _kept_seconds(claim: pb.ClaimStageResponse) -> float:
    """How long what is computed is kept for a store that is away: until the round's deadline, if it has one."""
    return claim.until_deadline.seconds if claim.HasField("until_deadline") else FINISHED_GIVE_UP_SECONDS


@lru_cache(maxsize=8)
def _config_of(text: str) -> FederationConfig:
    """Parsed once for all stages of a round. Raises ConfigurationError."""
    return parse_federation_config(json.loads(text))


def _purpose_and_key(claim: pb.ClaimStageResponse, name: str, sha256: str) -> tuple[str, str]:
    """Purpose and key of an output."""
    objects, path = RoundObjects(claim.federation_id, claim.round_number), model_path(name)
    return (MODEL_FILE, objects.model_file(path)) if path is not None else (name, objects.artifact(name, sha256))
