"""What folds of a round share stays from one claim to the next, and no longer than the round's folds."""

from __future__ import annotations

from typing import cast

import pytest

from fedafd.artifacts.stage_io import GLOBAL_REPRESENTATIONS
from fedafd.distiller.claims import RoundOfFolds, Shared
from fedafd.distiller.inputs import StageInputs
from fedafd.domain.kinds import StageKind
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.rpc.codes import wire_stage_kind


def claim(
    kind: StageKind = StageKind.FOLD, *, config: str = "{}", public_set: str = "set", key: str = "global"
) -> pb.ClaimStageResponse:
    answer = pb.ClaimStageResponse(
        kind=wire_stage_kind(kind), federation_config_json=config, public_set_sha256=public_set
    )
    answer.inputs.add(name="representations").artifact.key = "upload"
    if key:
        answer.inputs.add(name=GLOBAL_REPRESENTATIONS).artifact.key = key
    return answer


class Reads:
    """Counts what is read from a store."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def read(self, named: pb.NamedArtifact) -> bytes:
        self.keys.append(named.artifact.key)
        return b"content"

    def all_of(self, shared: Shared, answer: pb.ClaimStageResponse) -> None:
        for named in answer.inputs:
            shared.read(named, cast("StageInputs", self))


def test_the_next_claim_shares_what_was_decoded_and_reads_each_upload_anew() -> None:
    folds, reads = RoundOfFolds(), Reads()
    first = folds.shared(claim())
    reads.all_of(first, claim())
    second = folds.shared(claim())
    reads.all_of(second, claim())
    assert second.decoded is first.decoded
    assert reads.keys == ["upload", "global", "upload"]


@pytest.mark.parametrize(
    "other",
    [
        claim(key="of another round"),
        claim(config='{"name": "changed"}'),
        claim(public_set="another"),
        claim(key=""),
        claim(StageKind.WEIGH),
        claim(StageKind.DISTIL),
    ],
    ids=["round", "configuration", "public set", "without global representations", "weigh", "distil"],
)
def test_another_claim_shares_nothing_of_it_and_drops_it(other: pb.ClaimStageResponse) -> None:
    folds, reads = RoundOfFolds(), Reads()
    first = folds.shared(claim())
    reads.all_of(first, claim())
    between = folds.shared(other)
    assert between.decoded is not first.decoded
    assert folds.shared(claim()).decoded is not first.decoded
