"""What folds and merges of a round made is kept for the stages that read it next: how much of it, and how long."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from fedafd.distiller.client import DistillationClient
from fedafd.distiller.inputs import StageInputs
from fedafd.distiller.kept_outputs import KeptOutputs
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.patience import Patience
from fedafd.distiller.stages import StageResult
from fedafd.domain.errors import ArtifactNotFoundError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import StageKind
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.storage.folder import FolderStore

STATE = b"a state of the ensemble"


def entered(kind: StageKind = StageKind.FOLD, most_bytes: int = 100) -> KeptOutputs:
    kept = KeptOutputs(most_bytes)
    kept.enter("trial", 1, kind)
    return kept


@pytest.mark.parametrize("reads", [StageKind.FOLD, StageKind.WEIGH, StageKind.MERGE])
def test_it_stays_until_the_rounds_merges_are_done(reads: StageKind) -> None:
    kept = entered()
    kept.keep("hash", STATE)
    kept.enter("trial", 1, reads)
    assert kept.get("hash") == STATE
    kept.enter("trial", 1, StageKind.DISTIL)
    assert kept.get("hash") is None


@pytest.mark.parametrize(("federation", "number"), [("trial", 2), ("other", 1)])
def test_nothing_stays_when_another_rounds_stage_begins(federation: str, number: int) -> None:
    kept = entered()
    kept.keep("hash", STATE)
    kept.enter(federation, number, StageKind.FOLD)
    assert kept.get("hash") is None
    kept.keep("hash", STATE)
    assert kept.get("hash") == STATE


@pytest.mark.parametrize("kind", [StageKind.PREPARE, StageKind.DISTIL, StageKind.EVALUATE])
def test_what_later_rounds_read_is_not_kept(kind: StageKind) -> None:
    kept = entered(kind)
    kept.keep("hash", STATE)
    assert kept.get("hash") is None


def test_no_more_than_the_limit_is_kept_and_one_content_once() -> None:
    kept = entered(most_bytes=10)
    for _ in range(3):
        kept.keep("first", bytes(6))
    kept.keep("too large", bytes(5))
    kept.keep("fits", bytes(4))
    assert [kept.get(name) for name in ("first", "too large", "fits")] == [bytes(6), None, bytes(4)]
    kept.enter("trial", 2, StageKind.FOLD)
    kept.keep("too large", bytes(10))
    assert kept.get("too large") == bytes(10)


def test_an_input_that_is_kept_is_not_read_from_the_store(tmp_path: Path) -> None:
    store, kept = FolderStore(tmp_path), entered()
    named = pb.NamedArtifact(name="sed-state/0", artifact=types_pb2.Artifact(key="state", sha256=sha256_of(STATE)))

    def nobody(*_: object) -> StageResult:
        raise AssertionError("nothing is made again")

    inputs = StageInputs(
        cast("DistillationClient", _WithoutMakers()),
        store,
        Patience(),
        DistillerMetrics(),
        stage_id="stage",
        redo=nobody,
        kept=kept,
    )
    with pytest.raises(ArtifactNotFoundError):
        inputs.read(named)
    kept.keep(sha256_of(STATE), STATE)
    assert inputs.read(named) == STATE


class _WithoutMakers:
    def maker(self, *_: str) -> pb.ClaimStageResponse:
        raise ArtifactNotFoundError("no stage made it")
