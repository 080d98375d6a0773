"""Every RPC of a distiller with every status that gRPC knows: what may pass is asked again, anything else ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from fedafd.distiller import client as client_module
from fedafd.distiller.client import DistillationClient
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.public_sets import PublicSets
from fedafd.distiller.shutdown import Shutdown
from fedafd.distiller.stages import StageResult
from fedafd.distiller.tasks import StageRunner
from fedafd.domain.errors import ERROR_STATUS, FedafdError
from fedafd.domain.kinds import StageKind
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1.distillation_pb2_grpc import (
    DistillationServiceServicer,
    add_DistillationServiceServicer_to_server,
)
from fedafd.rpc.codes import wire_stage_kind
from fedafd.rpc.status import PASSING, status_of
from fedafd.storage.folder import FolderStore

CONFIG = '{"name": "trial", "embedding_dim": 8}'


@dataclass
class Server(DistillationServiceServicer):
    """Answers each call as an aggregator does; `surprises`: by RPC, the statuses that come first."""

    surprises: dict[str, list[grpc.StatusCode | FedafdError]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def _answered(self, name: str, call: grpc.ServicerContext) -> None:
        self.calls.append(name)
        if surprises := self.surprises.get(name):
            surprise = surprises.pop(0)
            if isinstance(surprise, FedafdError):
                code, text, trailing = status_of(surprise)
                call.set_trailing_metadata(trailing)
                call.abort(code, text)
            call.abort(surprise, "a surprise")

    def ClaimStage(self, request: pb.ClaimStageRequest, call: grpc.ServicerContext) -> pb.ClaimStageResponse:
        self._answered("ClaimStage", call)
        kind = wire_stage_kind(StageKind.FOLD)
        answer = pb.ClaimStageResponse(
            token=1, kind=kind, federation_id="trial", round_number=1, federation_config_json=CONFIG
        )
        answer.lease.FromSeconds(60)
        return answer

    def ReportStageProgress(
        self, request: pb.ReportStageProgressRequest, call: grpc.ServicerContext
    ) -> pb.ReportStageProgressResponse:
        self._answered("ReportStageProgress", call)
        return pb.ReportStageProgressResponse(keep_going=True)

    def CompleteStage(self, request: pb.CompleteStageRequest, call: grpc.ServicerContext) -> pb.CompleteStageResponse:
        self._answered("CompleteStage", call)
        return pb.CompleteStageResponse()

    def FailStage(self, request: pb.FailStageRequest, call: grpc.ServicerContext) -> pb.FailStageResponse:
        self._answered("FailStage", call)
        return pb.FailStageResponse()

    def DescribeMaker(self, request: pb.DescribeMakerRequest, call: grpc.ServicerContext) -> pb.DescribeMakerResponse:
        self._answered("DescribeMaker", call)
        return pb.DescribeMakerResponse()


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[Server, DistillationClient]]:
    service, server = Server(), grpc.server(ThreadPoolExecutor(4))
    add_DistillationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, DistillationClient(f"127.0.0.1:{port}", "internal-token-0123456789-0123456789", None)
    server.stop(None)


@pytest.fixture(autouse=True)
def _fresh(line: tuple[Server, DistillationClient], monkeypatch: pytest.MonkeyPatch) -> None:
    line[0].surprises.clear()
    line[0].calls.clear()
    monkeypatch.setattr(client_module, "_FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(client_module, "_LONGEST_WAIT_SECONDS", 0.01)


Call = Callable[[DistillationClient], object]
DONE = pb.CompleteStageRequest(stage_id="stage", token=1)
CALLS: dict[str, tuple[str, Call]] = {
    "claim": ("ClaimStage", lambda client: client.claim("stage")),
    "complete": ("CompleteStage", lambda client: client.complete([DONE], takes_next=False)),
    "fail": ("FailStage", lambda client: client.fail("stage", 1, "a reason", retryable=True)),
    "hand back": ("FailStage", lambda client: client.hand_back("stage", 1, "a reason")),
    "maker": ("DescribeMaker", lambda client: client.maker("stage", "a/key")),
}
OF_OURS = sorted((kind for kind in ERROR_STATUS if kind is not FedafdError), key=lambda kind: kind.code)
NUM_PASSING = sum(PASSING.values())


def error_of(kind: type[FedafdError]) -> FedafdError:
    error = kind.__new__(kind)
    FedafdError.__init__(error, "refused")
    return error


def test_every_rpc_is_here() -> None:
    service = pb.DESCRIPTOR.services_by_name["DistillationService"]
    assert {method for method, _ in CALLS.values()} | {"ReportStageProgress"} == set(service.methods_by_name)
    assert set(PASSING) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("code", list(PASSING), ids=lambda code: code.name)
@pytest.mark.parametrize("name", CALLS)
def test_a_status_without_a_code_of_ours_is_asked_again_or_final(
    line: tuple[Server, DistillationClient], name: str, code: grpc.StatusCode
) -> None:
    server, client = line
    method, call = CALLS[name]
    server.surprises[method] = [code, code]
    if PASSING[code]:
        call(client)
        assert server.calls == [method] * 3
    else:
        with pytest.raises(FedafdError) as raised:
            call(client)
        assert not raised.value.retryable
        assert server.calls == [method]


@pytest.mark.parametrize("kind", OF_OURS, ids=lambda kind: kind.code)
@pytest.mark.parametrize("name", CALLS)
def test_an_error_of_ours_says_itself_whether_it_passes(
    line: tuple[Server, DistillationClient], name: str, kind: type[FedafdError]
) -> None:
    server, client = line
    method, call = CALLS[name]
    server.surprises[method] = [error_of(kind), error_of(kind)]
    if kind.retryable:
        call(client)
        assert server.calls == [method] * 3
    else:
        with pytest.raises(FedafdError) as raised:
            call(client)
        assert type(raised.value) is kind
        assert server.calls == [method]


@pytest.mark.parametrize("code", list(PASSING), ids=lambda code: code.name)
def test_a_report_is_tried_once_and_the_next_one_comes_soon(
    line: tuple[Server, DistillationClient], code: grpc.StatusCode
) -> None:
    server, client = line
    server.surprises["ReportStageProgress"] = [code]
    with pytest.raises(FedafdError):
        client.report("stage", 1, (0.5, "a step"))
    assert client.report("stage", 1, (0.5, "a step"))
    assert server.calls == ["ReportStageProgress"] * 2


@pytest.fixture
def runner(
    line: tuple[Server, DistillationClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[StageRunner, list[int]]:
    """One that works on whatever it claims, and a list with an entry for each time that it did."""
    worked: list[int] = []

    def work(_: object) -> StageResult:
        worked.append(1)
        return StageResult({"sed-state": b"what the work made"})

    monkeypatch.setattr("fedafd.distiller.tasks.run_stage", work)
    public: Any = SimpleNamespace(open=lambda _: SimpleNamespace(split=None))
    metrics = DistillerMetrics()
    store = FolderStore(tmp_path / "store")
    made = StageRunner(line[1], store, cast("PublicSets", public), "cpu", metrics, Shutdown(0.0, metrics))
    return made, worked


@pytest.mark.parametrize("method", ["ClaimStage", "CompleteStage"])
def test_no_answer_that_passes_makes_a_distiller_do_finished_work_again(
    line: tuple[Server, DistillationClient], runner: tuple[StageRunner, list[int]], method: str
) -> None:
    server, (made, worked) = line[0], runner
    server.surprises[method] = [code for code, passing in PASSING.items() if passing]
    made.run("stage")
    assert worked == [1]
    assert "FailStage" not in server.calls
    assert server.calls.count(method) == NUM_PASSING + 1


@pytest.mark.parametrize("code", [code for code, passing in PASSING.items() if not passing], ids=lambda code: code.name)
def test_a_completion_that_is_refused_for_good_is_told_as_a_failure(
    line: tuple[Server, DistillationClient], runner: tuple[StageRunner, list[int]], code: grpc.StatusCode
) -> None:
    server, (made, worked) = line[0], runner
    server.surprises["CompleteStage"] = [code]
    made.run("stage")
    assert worked == [1]
    assert [name for name in server.calls if name != "ReportStageProgress"] == [
        "ClaimStage",
        "CompleteStage",
        "FailStage",
    ]
