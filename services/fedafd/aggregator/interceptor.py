"""Around every RPC: domain errors become status, surprises INTERNAL without a trace; calls are counted and capped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from fedafd.aggregator.context import Context
from fedafd.aggregator.credentials import credential_hash, note_credential
from fedafd.aggregator.types import Call, Handler, Interceptor
from fedafd.domain.errors import FedafdError, InvalidRequestError
from fedafd.persistence.caller_address import note_caller_address
from fedafd.rpc.peer import address_of
from fedafd.rpc.status import status_of
from fedafd.telemetry.logging import get_logger
from fedafd.telemetry.tracing import span_below, traceparent_in

__all__ = ["ErrorInterceptor"]

_OURS = "/fedafd."
_AGENTS = "/fedafd.v1.AggregatorService/"
_FOREIGN_STREAMS, _FOREIGN_SECONDS = 32, 30.0
"""Of reflection: a program asks for what it needs within a second."""
_ARITY = {False: "unary", True: "stream"}
_log = get_logger(__name__)


class ErrorInterceptor(Interceptor):
    """Translates what handlers raise."""

    def __init__(self, context: Context) -> None:
        self._metrics, self._waiting, self._proofs = context.metrics, context.waiting, context.proofs
        self._caps, self._pace = context.calls, context.pace
        self._refusals, self._strangers = context.refusals, context.strangers
        self._wrapped: dict[str, Handler] = {}
        """By path; only of methods that there are."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        path = handler_call_details.method
        if path not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return handler
            self._wrapped[path] = self._around_handler(handler, path)
        return self._wrapped[path]

    def _around_handler(self, handler: Any, path: str) -> Handler:
        kind = f"{_ARITY[handler.request_streaming]}_{_ARITY[handler.response_streaming]}"
        reading = _reading_all if handler.request_streaming else _reading
        inner = reading(getattr(handler, kind), handler.request_deserializer)
        if path.startswith(_OURS):
            inner = (self._streaming if handler.response_streaming else self._single)(inner, path)
        else:
            inner = (_foreign_stream if handler.response_streaming else _foreign)(inner)
        # Without a reader of its own: gRPC answers what it cannot read with UNKNOWN, and logs a trace.
        wrapped: Handler = getattr(grpc, f"{kind}_rpc_method_handler")(inner, None, handler.response_serializer)
        return wrapped

    def _single(self, inner: Callable[..., Any], path: str) -> Callable[..., Any]:
        method = path.rpartition("/")[2]
        seconds, answered = self._metrics.call_seconds.labels(method=method), self._answered(method)

        async def call(request: Any, context: Call) -> Any:
            try:
                with self._around(path, context) as wait:
                    if wait:
                        await asyncio.sleep(wait)
                    with seconds.time(), self._waiting.one():
                        answer = await inner(request, context)
            except Exception as error:
                await self._abort(error, method, context)
                raise
            answered.inc()
            return answer

        return call

    def _streaming(self, inner: Callable[..., Any], path: str) -> Callable[..., Any]:
        method = path.rpartition("/")[2]
        answered = self._answered(method)

        async def call(request: Any, context: Call) -> AsyncIterator[Any]:
            try:
                with self._around(path, context) as wait:
                    if wait:
                        await asyncio.sleep(wait)
                    async for answer in inner(request, context):
                        yield answer
            except Exception as error:
                await self._abort(error, method, context)
                raise
            answered.inc()

        return call

    def _answered(self, method: str) -> Counter:
        """Looked up once per method, as each look takes a lock."""
        return self._metrics.calls.labels(method=method, code="OK")

    @contextmanager
    def _around(self, path: str, context: Call) -> Iterator[float]:
        """Yields how long the call has to wait, because its caller calls too fast."""
        metadata = context.invocation_metadata()
        # Each RPC is a task of its own, with a context of its own.
        note_caller_address(address_of(context.peer()))
        # Distillers share one credential; a call without any is refused by its handler.
        credential = note_credential(metadata) if path.startswith(_AGENTS) else None
        cap = nullcontext() if credential is None else self._caps.one_of(credential)
        span = span_below(traceparent_in(metadata), f"rpc.{path.rpartition('/')[2]}", kind="SERVER")
        with self._metrics.calls_in_flight.track_inprogress(), span, cap:
            if credential is not None:
                self._proofs.check(metadata, path)
            yield 0.0 if credential is None else self._pace.wait_seconds(credential, time.monotonic())

    async def _abort(self, error: Exception, method: str, context: Call) -> None:
        if isinstance(error, grpc.aio.AbortError):
            return
        if isinstance(error, FedafdError):
            code, text, trailing = status_of(error)
            _log.info("rpc.refused", method=method, code=error.code, reason=text)
            if error.data.get("too_many_calls"):
                await self._refusals.wait(credential_hash(context.invocation_metadata()))
            elif code is grpc.StatusCode.UNAUTHENTICATED:
                await self._strangers.wait(address_of(context.peer()) or "")
        else:
            code, text, trailing = grpc.StatusCode.INTERNAL, "internal error; the aggregator's log has the details", ()
            _log.exception("rpc.failed", method=method)
        self._metrics.calls.labels(method=method, code=code.name).inc()
        await context.abort(code, text, trailing)


def _reading(inner: Callable[..., Any], parse: Callable[[bytes], Any]) -> Callable[..., Any]:
    """The handler `inner` for a request that is bytes still."""
    return lambda request, context: inner(_message_of(parse, request), context)


def _reading_all(inner: Callable[..., Any], parse: Callable[[bytes], Any]) -> Callable[..., Any]:
    """The handler `inner` for a stream of them."""
    return lambda _, context: inner(_messages_of(parse, context), context)


def _message_of(parse: Callable[[bytes], Any], content: bytes) -> Any:
    try:
        return parse(content)
    except DecodeError:
        raise InvalidRequestError(
            f"the request's {len(content)} bytes are no message of this call; the caller, or what is between, is faulty"
        ) from None


async def _messages_of(parse: Callable[[bytes], Any], context: Call) -> AsyncIterator[Any]:
    """Read from the call itself, and kept nowhere, so that a chunk is in memory once while it is worked on: gRPC's own
    iterator holds what it gave last until it is asked for the next."""
    while True:
        content = await context.read()
        if content is grpc.aio.EOF:  # type: ignore[attr-defined]
            return
        messages = [_message_of(parse, content)]
        del content
        yield messages.pop()


def _foreign(inner: Callable[..., Any]) -> Callable[..., Any]:
    """A handler of health or reflection, which knows no errors of ours."""

    async def call(request: Any, context: Call) -> Any:
        try:
            return await inner(request, context)
        except FedafdError as error:
            await context.abort(*status_of(error))

    return call


def _foreign_stream(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Open to strangers, whom no credential counts: so few at once, and none of them for long."""
    num_open = 0

    async def call(request: Any, context: Call) -> AsyncIterator[Any]:
        nonlocal num_open
        if num_open >= _FOREIGN_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_FOREIGN_STREAMS} such streams are open already")
        num_open += 1
        try:
            async with asyncio.timeout(_FOREIGN_SECONDS):
                async for answer in inner(request, context):
                    yield answer
        except FedafdError as error:
            await context.abort(*status_of(error))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"the stream was open for {_FOREIGN_SECONDS:g} s")
        finally:
            num_open -= 1

    return call
