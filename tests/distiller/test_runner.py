"""What the runner makes of each ending of a stage's work: completed, failed, handed back or lost, and told once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedafd.distiller.client import DistillationClient
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.patience import Patience
from fedafd.distiller.public_sets import PublicSets
from fedafd.distiller.shutdown import Shutdown, StageHandedBackError
from fedafd.distiller.stages import StageResult, StageWork
from fedafd.distiller.tasks import StageRunner
from fedafd.domain.errors import DataError, FedafdError, NotFoundError, StageLostError, StorageUnavailableError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import StageKind
from fedafd.domain.process_errors import UnreachableError
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.rpc.codes import wire_stage_kind
from fedafd.storage.folder import FolderStore

OUTPUT = b"what the work made"
_CONFIG = '{"name": "trial", "embedding_dim": 8}'


@dataclass
class Aggregator:
    """Answers a distiller's calls, and notes them. `refuses`: by call, what it raises instead."""

    claim_answer: pb.ClaimStageResponse
    following: pb.ClaimStageResponse | None = None
    lost: tuple[str, ...] = ()
    refuses: dict[str, FedafdError] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def _note(self, name: str, *values: Any) -> None:
        self.calls.append((name, *values))
        if name in self.refuses:
            raise self.refuses[name]

    def claim(self, stage_id: str) -> pb.ClaimStageResponse:
        self._note("claim", stage_id)
        return self.claim_answer

    def report(self, *_: Any, **__: Any) -> bool:
        return True

    def complete(self, done: list[pb.CompleteStageRequest], *, takes_next: bool) -> pb.CompleteStageResponse:
        self._note("complete", [(each.stage_id, each.token) for each in done], takes_next)
        self.outputs = {each.stage_id: list(each.outputs) for each in done}
        answer = pb.CompleteStageResponse(lost_stage_ids=self.lost)
        if takes_next and self.following is not None:
            answer.next.CopyFrom(self.following)
            self.following = None
        return answer

    def fail(self, stage_id: str, token: int, **about: Any) -> None:
        self._note("fail", stage_id, token, about)

    def hand_back(self, stage_id: str, token: int, reason: str) -> None:
        self._note("hand back", stage_id, token)


def claimed(stage_id: str, *companions: str, token: int = 7, kind: StageKind = StageKind.FOLD) -> pb.ClaimStageResponse:
    answer = pb.ClaimStageResponse(
        stage_id=stage_id,
        token=token,
        federation_id="trial",
        round_number=3,
        kind=wire_stage_kind(kind),
        federation_config_json=_CONFIG,
    )
    answer.lease.FromSeconds(60)
    for number, companion in enumerate(companions):
        answer.companions.add(stage_id=companion, token=token + 1 + number)
    return answer


@dataclass
class Distiller:
    """A runner on a real folder, and the work that it does."""

    runner: StageRunner
    store: FolderStore
    shutdown: Shutdown
    work: Callable[[StageWork], StageResult]

    def outcomes(self) -> dict[str, float]:
        """How many stages ended in which way."""
        counts = self.runner._metrics.stages
        return {
            name: value
            for name in ("done", "failed", "lost", "handed_back")
            if (value := counts.labels(kind=StageKind.FOLD.value, outcome=name)._value.get())
        }


Make = Callable[[Aggregator], Distiller]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr("fedafd.distiller.shutdown.end_within", lambda _: None)

    def build(aggregator: Aggregator) -> Distiller:
        metrics, store = DistillerMetrics(), FolderStore(tmp_path / "store")
        shutdown = Shutdown(0.0, metrics)
        public = SimpleNamespace(open=lambda _: SimpleNamespace(split=None))
        runner = StageRunner(
            cast("DistillationClient", aggregator),
            store,
            cast("PublicSets", public),
            "cpu",
            metrics,
            shutdown,
            patience=Patience(first_seconds=0.01, give_up_seconds=0.05),
        )
        distiller = Distiller(runner, store, shutdown, lambda _: StageResult({"sed-state": OUTPUT}))
        monkeypatch.setattr("fedafd.distiller.tasks.run_stage", lambda work: distiller.work(work))
        return distiller

    return build


def test_a_stage_that_is_done_is_stored_completed_and_followed_by_the_next(make: Make) -> None:
    aggregator = Aggregator(claimed("one"), following=claimed("two", token=9))
    distiller = make(aggregator)
    distiller.runner.run("one")
    assert aggregator.calls == [("claim", "one"), ("complete", [("one", 7)], True), ("complete", [("two", 9)], True)]
    (output,) = aggregator.outputs["two"]
    assert (output.name, output.artifact.sha256) == ("sed-state", sha256_of(OUTPUT))
    assert distiller.store.get(output.artifact.key) == OUTPUT
    assert distiller.outcomes() == {"done": 2}
    assert not distiller.runner.busy


def test_a_stage_reads_what_this_distiller_made_in_the_round_from_memory(make: Make) -> None:
    merge = claimed("merge", kind=StageKind.MERGE)
    merge.inputs.add(name="sed-state/0", artifact=types_pb2.Artifact(key="not stored", sha256=sha256_of(OUTPUT)))
    distiller = make(Aggregator(claimed("fold"), following=merge))
    read: list[bytes] = []

    def work(stage: StageWork) -> StageResult:
        read.extend(stage.inputs.values())
        return StageResult({"sed-state": OUTPUT})

    distiller.work = work
    distiller.runner.run("fold")
    assert read == [OUTPUT]


@pytest.mark.parametrize("error", [StageLostError("another has it"), NotFoundError("none"), UnreachableError("away")])
def test_a_stage_that_is_not_ours_is_left_alone(make: Make, error: FedafdError) -> None:
    aggregator = Aggregator(claimed("one"), refuses={"claim": error})
    distiller = make(aggregator)
    distiller.runner.run("one")
    assert aggregator.calls == [("claim", "one")]
    assert distiller.outcomes() == {}


@pytest.mark.parametrize(
    ("error", "about"),
    [
        (DataError("no rows"), {"reason": "no rows", "retryable": False, "outage": False, "bad_input": ""}),
        (ValueError("odd"), {"reason": "ValueError: odd", "retryable": False, "outage": False, "bad_input": ""}),
        (
            StorageUnavailableError("no route"),
            {"reason": "no route", "retryable": True, "outage": True, "bad_input": ""},
        ),
    ],
    ids=["ours", "a surprise", "an outage"],
)
def test_work_that_fails_is_told_with_its_reason_and_whether_to_try_again(
    make: Make, error: Exception, about: dict[str, Any]
) -> None:
    def fail(_: StageWork) -> StageResult:
        raise error

    aggregator = Aggregator(claimed("one"))
    distiller = make(aggregator)
    distiller.work = fail
    distiller.runner.run("one")
    assert aggregator.calls == [("claim", "one"), ("fail", "one", 7, about)]
    assert distiller.outcomes() == {"failed": 1}


def test_of_stages_claimed_together_one_that_fails_hinders_no_other(make: Make) -> None:
    tries: list[int] = []

    def work(_: StageWork) -> StageResult:
        tries.append(1)
        if len(tries) == 2:
            raise DataError("no rows")
        return StageResult({"sed-state": OUTPUT})

    aggregator = Aggregator(claimed("one", "two", "three"), following=claimed("next"))
    distiller = make(aggregator)
    distiller.work = work
    distiller.runner.run("one")
    about = {"reason": "no rows", "retryable": False, "outage": False, "bad_input": ""}
    # Who has something to give back takes nothing new.
    assert aggregator.calls[1:] == [("complete", [("one", 7), ("three", 9)], False), ("fail", "two", 8, about)]
    assert distiller.outcomes() == {"done": 2, "failed": 1}


def test_folds_claimed_together_are_worked_on_at_the_same_time_and_completed_in_their_order(make: Make) -> None:
    meet = threading.Barrier(2, timeout=20)

    def work(_: StageWork) -> StageResult:
        meet.wait()
        return StageResult({"sed-state": OUTPUT})

    claim = claimed("one", "two", "three", "four")
    aggregator = Aggregator(claim)
    distiller = make(aggregator)
    upload = bytes(1 << 20)
    distiller.store.put("upload", upload)
    for inputs in (claim.inputs, *(companion.inputs for companion in claim.companions)):
        artifact = types_pb2.Artifact(key="upload", sha256=sha256_of(upload))
        inputs.add(name="representations", artifact=artifact)
    distiller.runner._threads = 2
    distiller.work = work
    distiller.runner.run("one")
    assert aggregator.calls[1:] == [("complete", [("one", 7), ("two", 8), ("three", 9), ("four", 10)], True)]
    assert distiller.outcomes() == {"done": 4}


def test_an_outage_fails_what_is_left_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input of the first of three cannot be reached: no other is waited for as long again."""
    tries: list[int] = []

    def give_up(*_: object) -> bytes:
        tries.append(1)
        raise StorageUnavailableError("no route")

    monkeypatch.setattr("fedafd.distiller.inputs.StageInputs.read", give_up)
    claim = claimed("one", "two", "three")
    for inputs in (claim.inputs, *(companion.inputs for companion in claim.companions)):
        inputs.add(name="global-representations")
    aggregator = Aggregator(claim)
    distiller = make(aggregator)
    distiller.runner.run("one")
    assert len(tries) == 1
    assert [(name, stage_id) for name, stage_id, *_ in aggregator.calls[1:]] == [
        ("fail", "one"),
        ("fail", "two"),
        ("fail", "three"),
    ]
    assert distiller.outcomes() == {"failed": 3}


@pytest.mark.parametrize("deadline", [None, 600], ids=["no deadline", "a deadline that is far"])
def test_a_finished_stage_outlasts_a_store_that_is_away_until_the_rounds_deadline(
    make: Make, deadline: int | None
) -> None:
    claim = claimed("one")
    if deadline is not None:
        claim.until_deadline.FromSeconds(deadline)
    aggregator = Aggregator(claim)
    distiller = make(aggregator)
    away = distiller.store.root.with_name("away")

    def work(_: StageWork) -> StageResult:
        distiller.store.root.rename(away)
        threading.Timer(0.5, lambda: away.rename(distiller.store.root)).start()
        return StageResult({"sed-state": OUTPUT})

    distiller.store.put("a/b", b"so that it is there")
    distiller.work = work
    distiller.runner.run("one")  # whose patience with inputs is 0.05 s
    assert aggregator.calls == [("claim", "one"), ("complete", [("one", 7)], True)]


def test_a_finished_stage_of_a_round_that_is_late_waits_no_longer_than_any_try(make: Make) -> None:
    claim = claimed("one")
    claim.until_deadline.FromSeconds(0)
    aggregator = Aggregator(claim)
    distiller = make(aggregator)

    def work(_: StageWork) -> StageResult:
        distiller.store.root.rename(distiller.store.root.with_name("away"))
        return StageResult({"sed-state": OUTPUT})

    distiller.store.put("a/b", b"so that it is there")
    distiller.work = work
    distiller.runner.run("one")
    assert [name for name, *_ in aggregator.calls] == ["claim", "fail"]


def test_a_distiller_that_ends_hands_back_what_it_did_not_reach(make: Make) -> None:
    aggregator = Aggregator(claimed("one", "two"), following=claimed("next"))
    distiller = make(aggregator)

    def work(_: StageWork) -> StageResult:
        distiller.shutdown.begin()
        return StageResult({"sed-state": OUTPUT})

    distiller.work = work
    distiller.runner.run("one")
    assert aggregator.calls[1:] == [("complete", [("one", 7)], False), ("hand back", "two", 8)]
    assert distiller.outcomes() == {"done": 1, "handed_back": 1}


def test_a_stage_that_was_lost_meanwhile_is_neither_failed_nor_given_back(make: Make) -> None:
    aggregator = Aggregator(claimed("one"), refuses={"complete": StageLostError("another has it")})
    distiller = make(aggregator)
    distiller.runner.run("one")
    assert [name for name, *_ in aggregator.calls] == ["claim", "complete"]
    assert distiller.outcomes() == {"lost": 1}


def test_a_batch_of_which_one_was_lost_is_done_without_it(make: Make) -> None:
    aggregator = Aggregator(claimed("one", "two"), lost=("two",))
    distiller = make(aggregator)
    distiller.runner.run("one")
    assert distiller.outcomes() == {"done": 1, "lost": 1}


def test_an_aggregator_that_cannot_be_told_ends_no_distiller(make: Make) -> None:
    def give_up(_: StageWork) -> StageResult:
        raise StageHandedBackError("grace is over")

    aggregator = Aggregator(claimed("one", "two"), refuses={"hand back": UnreachableError("away")})
    distiller = make(aggregator)
    distiller.work = give_up
    distiller.runner.run("one")
    # Not tried for each: who is away for one is away for all.
    assert [name for name, *_ in aggregator.calls] == ["claim", "hand back"]
    assert distiller.outcomes() == {"handed_back": 2}
