"""An agent repeats what may pass until it does, gives the rest back at once, and stops in the middle of a pause."""

from __future__ import annotations

import asyncio
from time import monotonic

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from fedafd.agent.patient_calls import PatientCalls, StopRequestedError
from fedafd.domain.errors import ArtifactCorruptError, FedafdError, RoundClosedError, StorageUnavailableError
from fedafd.domain.process_errors import UnexpectedAnswerError
from fedafd.domain.retrying import FullJitter

QUICK, SLOW = FullJitter(0.001, 0.002), FullJitter(3600.0, 3600.0)


def answer_of(code: grpc.StatusCode, details: str = "no") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, "")


class Line:
    """Fails with each of `errors`, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0
        self.stop, self.heard = asyncio.Event(), list[Exception]()

    async def call(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def repeated(self, pauses: FullJitter = QUICK) -> str:
        async def before_next(error: Exception) -> None:
            self.heard.append(error)

        return await PatientCalls("north:1", self.stop, pauses, before_next).repeat("ask", self.call)


async def test_a_call_is_made_again_until_the_aggregator_is_there_and_the_log_says_why() -> None:
    away, busy = answer_of(grpc.StatusCode.UNAVAILABLE, "nobody listens"), StorageUnavailableError("the store is away")
    line = Line(away, busy)
    with capture_logs() as said:
        assert await line.repeated() == "answer"
    assert (line.calls, line.heard) == (3, [away, busy])
    assert [entry["event"] for entry in said] == [
        "agent.aggregator_unreachable",
        "agent.aggregator_busy",
        "agent.aggregator_reachable_again",
    ]
    assert [entry["tries"] for entry in said] == [1, 2, 2]
    assert "nobody listens" in said[0]["reason"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RoundClosedError("r"), RoundClosedError),
        (ArtifactCorruptError("sha"), ArtifactCorruptError),
        (answer_of(grpc.StatusCode.INVALID_ARGUMENT), UnexpectedAnswerError),
    ],
)
async def test_what_a_repeat_cannot_mend_is_raised_at_once(error: Exception, raised: type[FedafdError]) -> None:
    line = Line(error)
    with pytest.raises(raised):
        await line.repeated()
    assert (line.calls, line.heard) == (1, [])


async def test_an_agent_that_shall_stop_does_not_wait_for_the_end_of_a_pause() -> None:
    line = Line(answer_of(grpc.StatusCode.UNAVAILABLE))
    asyncio.get_running_loop().call_later(0.05, line.stop.set)
    before = monotonic()
    with pytest.raises(StopRequestedError):
        await line.repeated(SLOW)
    assert monotonic() - before < 5
    assert (line.calls, line.heard) == (1, [])


async def test_an_agent_that_shall_stop_gives_up_a_call_that_hangs() -> None:
    line = Line()
    calls = PatientCalls("north:1", line.stop, QUICK, lambda _: asyncio.sleep(0))
    asyncio.get_running_loop().call_later(0.05, line.stop.set)
    with pytest.raises(StopRequestedError):
        await calls.repeat("hang", lambda: asyncio.sleep(3600))
