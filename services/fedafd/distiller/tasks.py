"""From a stage's id to its completion: claim, fetch inputs, work, store outputs, complete. Counts once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from fedafd.distiller.client import DistillationClient
from fedafd.distiller.inputs import StageInputs
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.patience import Patience, is_outage
from fedafd.distiller.public_sets import PublicSets
from fedafd.distiller.shutdown import Shutdown, StageHandedBackError
from fedafd.distiller.stages import StageResult, StageWork, run_stage
from fedafd.domain.config import parse_federation_config
from fedafd.domain.errors import (
    FedafdError,
    NotFoundError,
    StageLostError,
)
from fedafd.domain.kinds import Modality, StageKind
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.storage import ObjectStore
from fedafd.storage.store import put_twice, sha256_of
from fedafd.telemetry.logging import bind_context, get_logger
from fedafd.telemetry.tracing import note, span, span_below

__all__ = ["StageRunner"]

_REPORT_SECONDS = 1.0
_REPORTS_PER_LEASE = 5
_KINDS = {
    pb.STAGE_KIND_PREPARE: StageKind.PREPARE,
    pb.STAGE_KIND_FOLD: StageKind.FOLD,
    pb.STAGE_KIND_MERGE: StageKind.MERGE,
    pb.STAGE_KIND_DISTIL: StageKind.DISTIL,
    pb.STAGE_KIND_EVALUATE: StageKind.EVALUATE,
}
_MODALITIES = {types_pb2.MODALITY_IMAGE: Modality.IMAGE, types_pb2.MODALITY_TEXT: Modality.TEXT}
_log = get_logger(__name__)


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
    ) -> None:
        self._client, self._store, self._public_sets = client, store, public_sets
        self._patience = patience or Patience()
        self._device, self._processes = device, processes
        self._metrics, self._shutdown = metrics, shutdown
        self.busy = False

    def run(self, stage_id: str, traceparent: str | None = None) -> None:
        """Do one stage; a stage that somebody else holds or that is settled is left alone.

        `traceparent` is the trace that the message belongs to.
        """
        with span_below(traceparent, "stage", kind="CONSUMER"), self._metrics.busy.track_inprogress():
            self.busy = True
            try:
                self._run(stage_id)
            finally:
                self.busy = False

    def _run(self, stage_id: str) -> None:
        try:
            claim = self._client.claim(stage_id)
        except (StageLostError, NotFoundError) as error:
            _log.info("stage.not_ours", stage=stage_id, reason=str(error))
            return
        except (FedafdError, StageHandedBackError) as error:
            # The coordinator offers again what nobody claimed.
            _log.warning("stage.not_claimed", stage=stage_id, reason=str(error))
            return
        kind = _KINDS[claim.kind].value
        note(stage=kind, federation=claim.federation_id, round=claim.round_number)
        with bind_context(federation=claim.federation_id, round_number=claim.round_number, stage=kind):
            _log.info("stage.started", stage_id=stage_id, attempt=claim.token)
            with self._metrics.timed(self._metrics.stage_seconds, kind=kind):
                outcome = self._settled(stage_id, claim)
            self._metrics.stages.labels(kind=kind, outcome=outcome).inc()

    def _settled(self, stage_id: str, claim: pb.ClaimStageResponse) -> str:
        try:
            self._work(stage_id, claim)
        except StageLostError as error:
            _log.warning("stage.lost", stage_id=stage_id, reason=str(error))
            return "lost"
        except StageHandedBackError as error:
            reason = str(error)
            _log.warning("stage.handed_back", stage_id=stage_id, reason=reason)
            self._tell(lambda: self._client.hand_back(stage_id, claim.token, reason), stage_id)
            return "handed_back"
        except Exception as error:
            self._give_up(stage_id, claim, error)
            return "failed"
        _log.info("stage.done", stage_id=stage_id)
        return "done"

    def _work(self, stage_id: str, claim: pb.ClaimStageResponse) -> None:
        with (
            _Heartbeat(self._client, stage_id, claim, self._shutdown) as heartbeat,
            self._patience.telling(heartbeat.wait),
        ):
            inputs = StageInputs(
                self._client,
                self._store,
                self._patience,
                self._metrics,
                stage_id=stage_id,
                redo=lambda maker, given: run_stage(self._described(maker, given, heartbeat.step)),
            )
            work = self._described(claim, {each.name: inputs.read(each) for each in claim.inputs}, heartbeat.step)
            with span("work"):
                result = run_stage(work)
            with span("store outputs"):
                outputs = self._stored(claim, result)
        self._client.complete(stage_id, claim.token, outputs, result.metrics)

    def _described(
        self, claim: pb.ClaimStageResponse, inputs: Mapping[str, bytes], progress: Callable[[float, str], None]
    ) -> StageWork:
        return StageWork(
            kind=_KINDS[claim.kind],
            config=parse_federation_config(json.loads(claim.federation_config_json)),
            federation_id=claim.federation_id,
            round_number=claim.round_number,
            seed=claim.seed,
            public_set_sha256=claim.public_set_sha256,
            modality=_MODALITIES.get(claim.modality),
            inputs=inputs,
            split=self._public_sets.open(claim.public_set_sha256).split,
            device=self._device,
            processes=self._processes,
            progress=progress,
        )

    def _stored(self, claim: pb.ClaimStageResponse, result: StageResult) -> list[pb.NamedArtifact]:
        named = []
        for name, content in result.outputs.items():
            # A version's state is hours of work, and its copy a small part of the store.
            twice = name == "server-state" and _KINDS[claim.kind] is StageKind.EVALUATE
            named.append(self._put(name, name, f"{claim.output_prefix}{name}/{sha256_of(content)}", content, twice))
        for path, content in result.model_files.items():
            key = f"federations/{claim.federation_id}/models/{claim.round_number}/{path}"
            named.append(self._put(f"model/{path}", "model-file", key, content))
        return named

    def _put(self, name: str, purpose: str, key: str, content: bytes, twice: bool = False) -> pb.NamedArtifact:
        put = partial(put_twice, self._store) if twice else self._store.put
        self._patience.through(lambda: put(key, content))
        self._metrics.bytes_written.inc(len(content))
        artifact = types_pb2.Artifact(sha256=sha256_of(content), size_bytes=len(content), purpose=purpose, key=key)
        return pb.NamedArtifact(name=name, artifact=artifact)

    def _give_up(self, stage_id: str, claim: pb.ClaimStageResponse, error: Exception) -> None:
        outage = is_outage(error)
        retryable = outage or (isinstance(error, FedafdError) and error.retryable)
        reason = str(error) if isinstance(error, FedafdError) else f"{type(error).__name__}: {error}"
        _log.error(
            "stage.failed", stage_id=stage_id, reason=reason, retryable=retryable, exc_info=None if outage else error
        )
        bad = str(error.data.get("input", "")) if isinstance(error, FedafdError) else ""
        options = {"retryable": retryable, "outage": outage}
        self._tell(lambda: self._client.fail(stage_id, claim.token, reason, **options, bad_input=bad), stage_id)

    def _tell(self, call: Callable[[], None], stage_id: str) -> None:
        try:
            call()
        except (FedafdError, StageHandedBackError) as refused:
            _log.warning("stage.failure_not_taken", stage_id=stage_id, reason=str(refused))


class _Heartbeat:
    """Reports steps and renews the lease about once a second, from a thread of its own that outlives no stage.

    `step` raises StageLostError when told to stop, and StageHandedBackError when the process must end.
    """

    def __init__(
        self, client: DistillationClient, stage_id: str, claim: pb.ClaimStageResponse, shutdown: Shutdown
    ) -> None:
        self._shutdown = shutdown
        self._client, self._stage_id, self._token = client, stage_id, claim.token
        lease = claim.lease.ToMilliseconds() / 1000
        self._pause = min(_REPORT_SECONDS, lease / _REPORTS_PER_LEASE) if lease else _REPORT_SECONDS
        self._latest: tuple[float, str] | None = (0.0, "reading inputs")
        self._fraction = 0.0
        self._lost = self._done = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def step(self, fraction: float, activity: str) -> None:
        """A step of progress was made."""
        self._latest, self._fraction = (fraction, activity), fraction
        self._shutdown.check()
        if self._lost:
            raise StageLostError(f"stage {self._stage_id}: cancelled, or another distiller has it")

    def wait(self, activity: str) -> None:
        """Something is waited for, which is as good as a step. Raises as `step` does."""
        self.step(self._fraction, activity)

    def __enter__(self) -> _Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self._wake.set()
        self._thread.join()

    def _beat(self) -> None:
        while not (self._done or self._lost):
            latest, self._latest = self._latest, None
            try:
                self._lost = not self._client.report(self._stage_id, self._token, latest)
            except FedafdError as error:
                _log.warning("stage.report_failed", reason=str(error))
                self._latest = self._latest or latest
            self._wake.wait(self._pause)
