"""The distiller's calls to the aggregator, repeated with full jitter while it is away."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import TypeVar

import grpc
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from fedafd.domain.errors import FedafdError
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.channel import open_sync_channel
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.status import error_from_rpc

__all__ = ["DistillationClient"]

_CALL_SECONDS = 30.0
_REPORT_SECONDS = 5.0
_GIVE_UP_SECONDS = 300.0
T = TypeVar("T")


class DistillationClient:
    """One connection; methods raise the domain error that a refusal stands for."""

    def __init__(self, address: str, internal_token: str) -> None:
        self._stub = DistillationServiceStub(open_sync_channel(address))
        self._metadata = bearer_metadata(internal_token)
        self.worker = f"{socket.gethostname()}:{os.getpid()}"

    def claim(self, stage_id: str) -> pb.ClaimStageResponse:
        """Claim a stage. Raises StageLostError, NotFoundError."""
        request = pb.ClaimStageRequest(stage_id=stage_id, worker=self.worker)
        answer: pb.ClaimStageResponse = self._call(
            lambda: self._stub.ClaimStage(request, metadata=self._metadata, timeout=_CALL_SECONDS)
        )
        return answer

    def report(self, stage_id: str, token: int, step: tuple[float, str] | None) -> bool:
        """Renew the lease, and tell how far the stage is if a step was made; False means: stop and discard.

        Tries once: the next report comes soon.
        """
        request = pb.ReportStageProgressRequest(stage_id=stage_id, token=token, alive_only=step is None)
        if step is not None:
            request.fraction, request.activity = step
        try:
            answer = self._stub.ReportStageProgress(request, metadata=self._metadata, timeout=_REPORT_SECONDS)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return bool(answer.keep_going)

    def complete(
        self, stage_id: str, token: int, outputs: list[pb.NamedArtifact], metrics: Mapping[str, float]
    ) -> None:
        """Settle the stage. Raises StageLostError."""
        request = pb.CompleteStageRequest(stage_id=stage_id, token=token, outputs=outputs, metrics=metrics)
        self._call(lambda: self._stub.CompleteStage(request, metadata=self._metadata, timeout=_CALL_SECONDS))

    def fail(self, stage_id: str, token: int, reason: str, *, retryable: bool) -> None:
        """Give the stage up. Raises StageLostError."""
        request = pb.FailStageRequest(stage_id=stage_id, token=token, reason=reason, retryable=retryable)
        self._call(lambda: self._stub.FailStage(request, metadata=self._metadata, timeout=_CALL_SECONDS))

    def _call(self, call: Callable[[], T]) -> T:
        def once() -> T:
            try:
                return call()
            except grpc.RpcError as error:
                raise error_from_rpc(error) from error

        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, FedafdError) and error.retryable),
            wait=wait_random_exponential(multiplier=0.5, max=15),
            stop=stop_after_delay(_GIVE_UP_SECONDS),
            reraise=True,
        )
        return retrying(once)
