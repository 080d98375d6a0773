"""Around every RPC: domain errors become status, surprises become INTERNAL without a stack trace, calls are counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
import grpc.aio

from fedafd.aggregator.metrics import AggregatorMetrics
from fedafd.aggregator.types import Call, Handler, Interceptor
from fedafd.domain.errors import FedafdError
from fedafd.rpc.status import status_of
from fedafd.telemetry.logging import get_logger
from fedafd.telemetry.tracing import span_below, traceparent_in

__all__ = ["ErrorInterceptor"]

_ARITY = {False: "unary", True: "stream"}
_log = get_logger(__name__)


class ErrorInterceptor(Interceptor):
    """Translates what handlers raise."""

    def __init__(self, metrics: AggregatorMetrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method.rpartition("/")[2]
        if handler is None or not handler_call_details.method.startswith("/fedafd."):
            return cast("Handler", handler)
        kind = f"{_ARITY[handler.request_streaming]}_{_ARITY[handler.response_streaming]}"
        wrap = self._streaming if handler.response_streaming else self._single
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped: Handler = make(
            wrap(getattr(handler, kind), method), handler.request_deserializer, handler.response_serializer
        )
        return wrapped

    def _single(self, inner: Callable[..., Any], method: str) -> Callable[..., Any]:
        seconds = self._metrics.call_seconds

        async def call(request: Any, context: Call) -> Any:
            try:
                with self._around(method, context), self._metrics.metrics.timed(seconds, method=method):
                    answer = await inner(request, context)
            except Exception as error:
                await self._abort(error, method, context)
                raise
            self._metrics.calls.labels(method=method, code="OK").inc()
            return answer

        return call

    def _streaming(self, inner: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def call(request: Any, context: Call) -> AsyncIterator[Any]:
            try:
                with self._around(method, context):
                    async for answer in inner(request, context):
                        yield answer
            except Exception as error:
                await self._abort(error, method, context)
                raise
            self._metrics.calls.labels(method=method, code="OK").inc()

        return call

    @contextmanager
    def _around(self, method: str, context: Call) -> Iterator[None]:
        parent = traceparent_in(context.invocation_metadata())
        with self._metrics.calls_in_flight.track_inprogress(), span_below(parent, f"rpc.{method}", kind="SERVER"):
            yield

    async def _abort(self, error: Exception, method: str, context: Call) -> None:
        if isinstance(error, grpc.aio.AbortError):
            return
        if isinstance(error, FedafdError):
            code, text, trailing = status_of(error)
            _log.info("rpc.refused", method=method, code=error.code, reason=text)
        else:
            code, text, trailing = grpc.StatusCode.INTERNAL, "internal error; the aggregator's log has the details", ()
            _log.exception("rpc.failed", method=method)
        self._metrics.calls.labels(method=method, code=code.name).inc()
        await context.abort(code, text, trailing)
