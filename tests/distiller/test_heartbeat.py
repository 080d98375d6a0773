"""A claimed stage's lease is renewed while it is worked on, and what ends the work is heard at its next step."""

from __future__ import annotations

import threading
from typing import cast

import pytest

from fedafd.distiller.client import DistillationClient
from fedafd.distiller.heartbeat import Heartbeat
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.shutdown import HARD_END_SECONDS, Shutdown, StageHandedBackError
from fedafd.domain.errors import FedafdError, StageLostError
from fedafd.domain.process_errors import UnreachableError
from fedafd.proto.v1 import distillation_pb2 as pb


class Reports:
    """An aggregator that notes what it is told, and answers what is next in `answers`, then that the claim holds."""

    def __init__(self, *answers: bool | FedafdError) -> None:
        self.answers = list(answers)
        self.told: list[tuple[float, str] | None] = []
        self.twice = threading.Event()

    def report(self, _: str, __: int, latest: tuple[float, str] | None, *, with_companions: bool) -> bool:
        assert not with_companions
        self.told.append(latest)
        if len(self.told) == 2:
            self.twice.set()
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, FedafdError):
            raise answer
        return answer


def heartbeat(reports: Reports, shutdown: Shutdown) -> Heartbeat:
    claim = pb.ClaimStageResponse(token=3)
    claim.lease.FromMilliseconds(50)
    return Heartbeat(cast("DistillationClient", reports), "s", claim, shutdown)


@pytest.fixture
def shutdown(monkeypatch: pytest.MonkeyPatch) -> Shutdown:
    monkeypatch.setattr("fedafd.distiller.shutdown.end_within", lambda _: None)
    return Shutdown(0.0, DistillerMetrics())


def test_the_lease_is_renewed_without_a_step_and_each_step_is_told_once(shutdown: Shutdown) -> None:
    reports = Reports()
    with heartbeat(reports, shutdown):
        assert reports.twice.wait(10)
    assert reports.told[:2] == [(0.0, "reading inputs"), None]


def test_a_step_that_could_not_be_told_is_told_again(shutdown: Shutdown) -> None:
    reports = Reports(UnreachableError("away"))
    with heartbeat(reports, shutdown):
        assert reports.twice.wait(10)
    assert reports.told[:2] == [(0.0, "reading inputs")] * 2


def test_the_next_step_after_a_lost_claim_ends_the_work(shutdown: Shutdown) -> None:
    reports = Reports(False)
    with heartbeat(reports, shutdown) as beating:
        beating._thread.join(10)
        with pytest.raises(StageLostError, match="stage s"):
            beating.step(0.5, "training")
        with pytest.raises(StageLostError):
            beating.wait("waiting for the store")
    assert len(reports.told) == 1


def test_a_shutdown_whose_grace_is_over_hands_the_stage_back(shutdown: Shutdown) -> None:
    with heartbeat(Reports(), shutdown) as beating:
        beating.step(0.5, "training")
        assert not shutdown.begun
        shutdown.begin()
        assert shutdown.begun
        with pytest.raises(StageHandedBackError, match="0 s of grace"):
            beating.step(0.6, "training")


def test_a_shutdown_leaves_the_stage_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []
    monkeypatch.setattr("fedafd.distiller.shutdown.end_within", ends.append)
    shutdown = Shutdown(60.0, DistillerMetrics())
    shutdown.begin()
    shutdown.begin()
    shutdown.check()
    assert ends == [60.0 + HARD_END_SECONDS]
