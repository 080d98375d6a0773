"""Folds that were claimed together: one client's follow each other and read its upload once; the first stays first."""

from __future__ import annotations

from typing import cast

from fedafd.artifacts.stage_io import FoldInputs
from fedafd.distiller.claims import Shared, claimed_stages
from fedafd.distiller.inputs import StageInputs
from fedafd.proto.v1 import distillation_pb2 as pb


def inputs_of(client: str) -> list[pb.NamedArtifact]:
    answers = []
    for name, key in FoldInputs(client_representations=client, global_representations="global").named().items():
        answer = pb.NamedArtifact(name=name)
        answer.artifact.key = key
        answers.append(answer)
    return answers


class Store:
    """Gives each object's key as its content, and notes what was read."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def read(self, named: pb.NamedArtifact) -> bytes:
        self.keys.append(named.artifact.key)
        return named.artifact.key.encode()


def test_each_upload_is_read_once_whichever_order_the_folds_were_claimed_in() -> None:
    claim = pb.ClaimStageResponse(stage_id="b image", inputs=inputs_of("b"))
    for name in ("a image", "c text", "b text", "a text", "c image"):
        claim.companions.add(stage_id=name, inputs=inputs_of(name[0]))
    stages = claimed_stages("b image", claim)
    assert [stage.stage_id for stage in stages] == ["b image", "b text", "a image", "a text", "c text", "c image"]
    store, shared = Store(), Shared()
    for stage in stages:
        for given in stage.claim.inputs:
            assert shared.read(given, cast("StageInputs", store)) == given.artifact.key.encode()
    assert sorted(store.keys) == ["a", "b", "c", "global"]


def test_stages_without_an_upload_keep_their_order() -> None:
    claim = pb.ClaimStageResponse(stage_id="2")
    for name in ("3", "1"):
        claim.companions.add(stage_id=name)
    assert [stage.stage_id for stage in claimed_stages("2", claim)] == ["2", "3", "1"]
