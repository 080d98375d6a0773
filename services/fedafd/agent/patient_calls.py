"""Calls of an agent that are repeated for as long as the aggregator is away, and end at once when the agent shall stop.

Only what may pass is repeated. Every answer that means something becomes its domain error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio
from tenacity import AsyncRetrying, RetryCallState, retry_if_not_exception_type

from fedafd.domain.errors import ArtifactCorruptError, FedafdError
from fedafd.domain.retrying import FullJitter, if_retryable
from fedafd.rpc.channel import way_to
from fedafd.rpc.status import error_from_rpc, has_no_route
from fedafd.telemetry.logging import get_logger

__all__ = ["PatientCalls", "StopRequestedError", "is_broken_line"]

_UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
_log = get_logger(__name__)
T = TypeVar("T")


class StopRequestedError(Exception):
    """The agent was asked to stop while it waited."""


def is_broken_line(error: BaseException) -> bool:
    """Whether the call found no aggregator, or lost it."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return False
    # A stream that the other side ends while we write to it may surface as an error of gRPC's own core.
    torn = error.code() is grpc.StatusCode.INTERNAL and "from Core" in (error.details() or "")
    return torn or has_no_route(error) or error.code() in _UNREACHABLE


class PatientCalls:
    """Calls to one aggregator. They raise StopRequestedError once `stop` is set, or a FedafdError."""

    def __init__(
        self,
        address: str,
        stop: asyncio.Event,
        pauses: FullJitter,
        before_next: Callable[[grpc.aio.AioRpcError | FedafdError], Awaitable[None]],
    ) -> None:
        """`before_next` hears after each pause why the call is made again."""
        self._address, self._stop, self._pauses, self._before_next = address, stop, pauses, before_next

    async def repeat(self, what: str, call: Callable[[], Awaitable[T]], *, pauses: FullJitter | None = None) -> T:
        """What `call` returns, once it does; `what` names it in the log."""
        failure: grpc.aio.AioRpcError | FedafdError | None = None

        async def once() -> T:
            nonlocal failure
            try:
                return await self.guarded(call())
            except FedafdError as error:
                failure = error
                raise
            except grpc.aio.AioRpcError as error:
                failure = error
                raise error_from_rpc(error) from error

        async def pause(seconds: float) -> None:
            assert failure is not None
            await self._pause(seconds)
            await self._before_next(failure)

        def tell(state: RetryCallState) -> None:
            assert failure is not None
            self._tell(what, failure, state)

        retrying = AsyncRetrying(
            retry=if_retryable & retry_if_not_exception_type(ArtifactCorruptError),
            wait=pauses or self._pauses,
            before_sleep=tell,
            sleep=pause,
            reraise=True,
        )
        answer: T = await retrying(once)
        if failure is not None:
            tries = retrying.statistics["attempt_number"] - 1
            _log.info("agent.aggregator_reachable_again", aggregator=self._address, tries=tries)
        return answer

    async def guarded(self, call: Awaitable[T]) -> T:
        """Await `call`, but give up at once when the agent is asked to stop."""
        work = asyncio.ensure_future(_awaited(call))
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise StopRequestedError
            return work.result()
        finally:
            for task in (work, stopped):
                if not task.done():
                    task.cancel()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
        raise StopRequestedError

    def _tell(self, what: str, failure: grpc.aio.AioRpcError | FedafdError, state: RetryCallState) -> None:
        known = failure if isinstance(failure, FedafdError) else error_from_rpc(failure)
        away = is_broken_line(failure)
        _log.warning(
            "agent.aggregator_unreachable" if away else "agent.aggregator_busy",
            aggregator=self._address,
            doing=what,
            reason=f"{known}{way_to(self._address) if away else ''}",
            tries=state.attempt_number,
            again_in_seconds=round(state.upcoming_sleep, 1),
        )


async def _awaited(call: Awaitable[T]) -> T:
    return await call
