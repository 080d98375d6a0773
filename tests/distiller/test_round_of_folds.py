"""What folds of a round share stays from one claim to the next, and no longer than the round's folds."""

from __future__ import annotations

from typing import cast

import pytest
from tests.distiller.test_claims import Store

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


def read_all(shared: Shared, store: Store, answer: pb.ClaimStageResponse) -> None:
    for named in answer.inputs:
        shared.read(named, cast("StageInputs", store))


def test_the_next_claim_shares_what_was_decoded_and_reads_each_upload_anew() -> None:
    folds, store = RoundOfFolds(), Store()
    with folds.shared(claim()) as first:
        read_all(first, store, claim())
    with folds.shared(claim()) as second:
        read_all(second, store, claim())
    assert second.decoded is first.decoded
    assert store.keys == ["upload", "global", "upload"]


def test_what_a_client_sent_is_let_go_when_its_folds_are_done() -> None:
    """Between two claims of a round may be hours."""
    folds, store = RoundOfFolds(), Store()
    with folds.shared(claim()) as shared:
        read_all(shared, store, claim())
        assert shared._upload is not None
    assert shared._upload is None


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
    folds, store = RoundOfFolds(), Store()
    with folds.shared(claim()) as first:
        read_all(first, store, claim())
    with folds.shared(other) as between:
        assert between.decoded is not first.decoded
    with folds.shared(claim()) as later:
        assert later.decoded is not first.decoded
