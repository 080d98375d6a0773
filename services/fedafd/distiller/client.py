"""The distiller's calls to the aggregator, repeated with full jitter while it is away."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TypeVar

import grpc
from tenacity import Retrying, stop_after_delay

from fedafd.domain.config import TlsConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import FOLDS_TOGETHER
from fedafd.domain.process_errors import UnreachableError
from fedafd.domain.retrying import FullJitter, if_retryable, sleep_in_slices
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.channel import open_sync_channel, way_to
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.status import DIAL_ANEW_SECONDS, error_from_rpc, is_in_vain
from fedafd.rpc.tls import Trust, file_stamp
from fedafd.telemetry.logging import get_logger
from fedafd.telemetry.tracing import trace_metadata

__all__ = ["FINISHED_GIVE_UP_SECONDS", "DistillationClient"]

_CALL_SECONDS = 15.0
_REPORT_SECONDS = 5.0
_GIVE_UP_SECONDS = 300.0
FINISHED_GIVE_UP_SECONDS = 6 * 3600.0
"""For what is computed: doing it again takes longer than waiting for the aggregator."""
_HAND_BACK_SECONDS = 2.5
"""For each try, and after which there is no other."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 15.0
_log = get_logger(__name__)
T = TypeVar("T")


class DistillationClient:
    """One connection; methods raise the domain error that a refusal stands for.

    While a call waits for the aggregator, `check` is called again and again; what it raises ends the waiting.
    """

    def __init__(
        self,
        address: str,
        internal_token: str,
        tls: TlsConfig | Trust | None = None,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises ConfigurationError for TLS files that cannot be used."""
        self._address, self._tls, self._check = address, tls, check
        self._opening = threading.Lock()
        self._open()
        self._credential = bearer_metadata(internal_token)
        # A process that starts anew in a container has its predecessor's name and number.
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def claim(self, stage_id: str) -> pb.ClaimStageResponse:
        """Claim a stage; of a fold others of its round, too. Raises StageLostError, NotFoundError."""
        request = pb.ClaimStageRequest(stage_id=stage_id, worker=self.worker, most_companions=FOLDS_TOGETHER - 1)
        answer: pb.ClaimStageResponse = self._call(
            lambda: self._stub.ClaimStage(request, metadata=self._metadata, timeout=_CALL_SECONDS)
        )
        return answer

    def report(
        self, stage_id: str, token: int, step: tuple[float, str] | None, *, with_companions: bool = False
    ) -> bool:
        """Renew the lease, and tell how far the stage is if a step was made; False means: stop and discard.

        Tries once: the next report comes soon.
        """
        request = pb.ReportStageProgressRequest(stage_id=stage_id, token=token, alive_only=step is None)
        request.with_companions = with_companions
        if step is not None:
            request.fraction, request.activity = step
        try:
            answer = self._stub.ReportStageProgress(request, metadata=self._metadata, timeout=_REPORT_SECONDS)
        except grpc.RpcError as error:
            self._renew(error)
            raise error_from_rpc(error) from error
        return bool(answer.keep_going)

    def complete(self, done: Sequence[pb.CompleteStageRequest], *, takes_next: bool) -> pb.CompleteStageResponse:
        """Settle stages that were claimed together, however long the aggregator is away; which of them were lost.

        With `takes_next` the answer may hold the stage to go on with. Raises StageLostError if the only one was lost.
        """
        first, *others = done
        request = pb.CompleteStageRequest()
        request.CopyFrom(first)
        request.companions.extend(others)
        request.takes_next = takes_next
        answer: pb.CompleteStageResponse = self._call(
            lambda: self._stub.CompleteStage(request, metadata=self._metadata, timeout=_CALL_SECONDS),
            give_up_seconds=FINISHED_GIVE_UP_SECONDS,
        )
        return answer

    def maker(self, stage_id: str, key: str) -> pb.ClaimStageResponse:
        """The stage that made an input of ours. Raises NotFoundError where none did."""
        request = pb.DescribeMakerRequest(stage_id=stage_id, key=key)
        answer: pb.DescribeMakerResponse = self._call(
            lambda: self._stub.DescribeMaker(request, metadata=self._metadata, timeout=_CALL_SECONDS)
        )
        return answer.maker

    def fail(
        self, stage_id: str, token: int, reason: str, *, retryable: bool, outage: bool = False, bad_input: str = ""
    ) -> None:
        """Give the stage up; `outage` if what it needs was away, `bad_input` names what is lost or damaged.

        Raises StageLostError.
        """
        request = pb.FailStageRequest(stage_id=stage_id, token=token, reason=reason, retryable=retryable)
        request.outage, request.bad_input = outage, bad_input
        self._fail(request)

    def hand_back(self, stage_id: str, token: int, reason: str) -> None:
        """Let another distiller do the stage; not a failure. Tried for seconds only. Raises StageLostError."""
        request = pb.FailStageRequest(stage_id=stage_id, token=token, reason=reason, retryable=True, handed_back=True)
        self._call(
            lambda: self._stub.FailStage(request, metadata=self._metadata, timeout=_HAND_BACK_SECONDS),
            give_up_seconds=_HAND_BACK_SECONDS,
            check=lambda: None,
        )

    def _fail(self, request: pb.FailStageRequest) -> None:
        self._call(lambda: self._stub.FailStage(request, metadata=self._metadata, timeout=_CALL_SECONDS))

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (*self._credential, *trace_metadata())

    def _open(self) -> None:
        files, self._opened_at = file_stamp(self._tls), monotonic()
        self._channel = open_sync_channel(self._address, self._tls)
        self._files = files
        self._stub = DistillationServiceStub(self._channel)

    def _renew(self, error: grpc.RpcError) -> None:
        """Open another channel where the certificate's files are others, or this one leads to who cannot serve."""
        with self._opening:
            in_vain = is_in_vain(error) and monotonic() - self._opened_at > DIAL_ANEW_SECONDS
            if not in_vain and file_stamp(self._tls) == self._files:
                return
            old = self._channel
            try:
                self._open()
            except ConfigurationError as error:  # half of the files are written
                _log.warning("distiller.tls_files_not_taken", reason=str(error))
            else:
                _log.info("distiller.connection_renewed", aggregator=self._address)
                old.close()

    def _call(
        self,
        call: Callable[[], T],
        *,
        give_up_seconds: float = _GIVE_UP_SECONDS,
        check: Callable[[], None] | None = None,
    ) -> T:
        def once() -> T:
            try:
                return call()
            except grpc.RpcError as error:
                self._renew(error)
                known = error_from_rpc(error)
                if isinstance(known, UnreachableError):
                    known = UnreachableError(f"{self._address}: {known}{way_to(self._address)}")
                raise known from error

        retrying = Retrying(
            retry=if_retryable,
            wait=FullJitter(_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS),
            stop=stop_after_delay(give_up_seconds),
            sleep=sleep_in_slices(check or self._check),
            reraise=True,
        )
        return retrying(once)
