"""Stages that a distiller claimed at once: one, or several folds of a round, which share what they all read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fedafd.artifacts.stage_io import GLOBAL_REPRESENTATIONS, is_client_representations
from fedafd.distiller.inputs import StageInputs
from fedafd.distiller.stages import Decoded
from fedafd.domain.kinds import StageKind
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.rpc.codes import stage_kind_from_wire

__all__ = ["Claimed", "Results", "RoundOfFolds", "Shared", "claimed_stages"]

_READ_BY_ALL = GLOBAL_REPRESENTATIONS


@dataclass(frozen=True, eq=False)
class Claimed:
    """One stage, as if it had been claimed for itself."""

    stage_id: str
    claim: pb.ClaimStageResponse


def claimed_stages(asked: str, answer: pb.ClaimStageResponse) -> list[Claimed]:
    """What the answer to a claim of the stage `asked` stands for, the stage that is reported on first."""
    stages = [Claimed(answer.stage_id or asked, answer)]
    for companion in answer.companions:
        claim = pb.ClaimStageResponse()
        claim.CopyFrom(answer)
        del claim.companions[:]
        del claim.inputs[:]
        claim.inputs.extend(companion.inputs)
        claim.token, claim.modality = companion.token, companion.modality
        stages.append(Claimed(companion.stage_id, claim))
    # Folds of one client's modalities one after the other: both are of the same upload.
    order_of_uploads: dict[str, int] = {}
    return sorted(stages, key=lambda stage: order_of_uploads.setdefault(_upload_of(stage), len(order_of_uploads)))


def _upload_of(stage: Claimed) -> str:
    keys = (given.artifact.key for given in stage.claim.inputs if is_client_representations(given.name))
    return next(keys, stage.stage_id)


@dataclass
class Shared:
    """What the stages at hand read alike: once from the store, and decoded once."""

    decoded: Decoded = field(default_factory=Decoded)
    _read: dict[str, bytes] = field(default_factory=dict)
    _upload: tuple[str, bytes] | None = None
    """The last upload that was read."""

    def read(self, named: pb.NamedArtifact, inputs: StageInputs) -> bytes:
        """The input. Raises as `StageInputs.read`."""
        key = named.artifact.key
        if is_client_representations(named.name):
            if self._upload is None or self._upload[0] != key:
                self._upload = None  # what was read before makes room first
                self._upload = key, inputs.read(named)
            return self._upload[1]
        if named.name != _READ_BY_ALL:
            return inputs.read(named)
        if key not in self._read:
            self._read[key] = inputs.read(named)
        return self._read[key]

    def forget_upload(self) -> None:
        """No stage that comes reads the last upload."""
        self._upload = None


class RoundOfFolds:
    """What a round's folds share from one claim to the next: to make it ready takes longer than a small fold does."""

    def __init__(self) -> None:
        self._shared: Shared | None = None
        self._of: tuple[str, ...] = ()

    @contextmanager
    def shared(self, claim: pb.ClaimStageResponse) -> Iterator[Shared]:
        """For the stages of a claim, while the block works on them. What another round's folds shared is dropped, and
        at the end what a client sent."""
        shared = self._of_round(claim)
        try:
            yield shared
        finally:
            shared.forget_upload()

    def _of_round(self, claim: pb.ClaimStageResponse) -> Shared:
        known = [given.artifact.key for given in claim.inputs if given.name == _READ_BY_ALL]
        if stage_kind_from_wire(claim.kind) is not StageKind.FOLD or not known:
            self._shared = None
            return Shared()
        of = (claim.federation_config_json, claim.public_set_sha256, *known)
        if self._shared is None or of != self._of:
            self._shared, self._of = Shared(), of
        return self._shared


@dataclass
class Results:
    """How far the stages at hand came."""

    done: dict[Claimed, pb.CompleteStageRequest] = field(default_factory=dict)
    failed: dict[Claimed, Exception] = field(default_factory=dict)
    left: dict[Claimed, Exception] = field(default_factory=dict)
    """Those that were not finished, because the claim was lost or this distiller ends."""
