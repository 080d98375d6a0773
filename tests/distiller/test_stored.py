"""What a stage made is written once: EVALUATE hands on the state that it read, and adds a copy of it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedafd.artifacts.keys import RoundObjects
from fedafd.artifacts.stage_io import SERVER_STATE, EvaluateOutputs
from fedafd.distiller.claims import Claimed
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.shutdown import Shutdown
from fedafd.distiller.stages import StageResult
from fedafd.distiller.tasks import StageRunner
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import StageKind
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.rpc.codes import wire_stage_kind
from fedafd.storage.folder import FolderStore
from fedafd.storage.store import copy_of, get_verified

STATE = b"hours of work"
DISTILLED = RoundObjects("f", 3).artifact(SERVER_STATE, sha256_of(STATE))
OF_ANOTHER_ROUND = RoundObjects("f", 2).artifact(SERVER_STATE, sha256_of(STATE))


@pytest.mark.parametrize(
    ("read", "written"),
    [(DISTILLED, [copy_of(DISTILLED)]), (OF_ANOTHER_ROUND, [DISTILLED, copy_of(DISTILLED)])],
    ids=["of-this-round", "of-another-round"],
)
def test_a_state_that_is_there_is_not_written_again(tmp_path: Path, read: str, written: list[str]) -> None:
    store, metrics = FolderStore(tmp_path), DistillerMetrics()
    store.put(read, STATE)
    nobody: Any = None
    runner = StageRunner(nobody, store, nobody, "cpu", metrics, Shutdown(1.0, metrics))
    claim = pb.ClaimStageResponse(federation_id="f", round_number=3, kind=wire_stage_kind(StageKind.EVALUATE))
    claim.inputs.add(name=SERVER_STATE).artifact.key = read
    result = StageResult(EvaluateOutputs(server_state=STATE, model_files={}).named(), {})
    outputs = runner._outputs(Claimed("stage", claim), result)
    runner._put(outputs.objects)
    assert list(outputs.objects) == written
    assert get_verified(store, DISTILLED, sha256_of(STATE)) == STATE
