"""A claimed stage's heartbeat: its lease is renewed and its steps are told while it is worked on."""

from __future__ import annotations

import threading

from fedafd.distiller.client import DistillationClient
from fedafd.distiller.shutdown import Shutdown
from fedafd.domain.errors import FedafdError, StageLostError
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.telemetry.logging import get_logger

__all__ = ["Heartbeat"]

_REPORT_SECONDS = 1.0
_REPORTS_PER_LEASE = 5
_log = get_logger(__name__)


class Heartbeat:
    """Reports steps and renews the lease about once a second, from a thread of its own that outlives no stage.

    The claim itself is the first sign of life: a stage that is done within a second reports nothing but its end.

    `step` raises StageLostError when told to stop, and StageHandedBackError when the process must end.
    """

    def __init__(
        self, client: DistillationClient, stage_id: str, claim: pb.ClaimStageResponse, shutdown: Shutdown
    ) -> None:
        """Of a stage and of the companions that were claimed with it."""
        self._shutdown = shutdown
        self._client, self._stage_id, self._token = client, stage_id, claim.token
        self._with_companions = bool(claim.companions)
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

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self._wake.set()
        self._thread.join()

    def _beat(self) -> None:
        self._wake.wait(self._pause)
        while not (self._done or self._lost):
            latest, self._latest = self._latest, None
            try:
                self._lost = not self._client.report(
                    self._stage_id, self._token, latest, with_companions=self._with_companions
                )
            except FedafdError as error:
                _log.warning("stage.report_failed", reason=str(error))
                self._latest = self._latest or latest
            self._wake.wait(self._pause)
