"""The one table of enums: those of the wire and those of the domain, one for one.

A number that this program does not know, from a newer agent, becomes the value that says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedafd.domain.errors import InvalidRequestError, UploadError
from fedafd.domain.kinds import Modality, ParticipantKind, StageKind, UploadPurpose
from fedafd.domain.leaving import SAID_BY_AGENTS, Activity, ActivityKind, LeaveReason
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2, types_pb2

__all__ = [
    "activity_from_wire",
    "client_kind_from_wire",
    "leave_reason_from_wire",
    "modality_from_wire",
    "purpose_from_wire",
    "stage_kind_from_wire",
    "wire_activity",
    "wire_client_kind",
    "wire_leave_reason",
    "wire_modality",
    "wire_purpose",
    "wire_stage_kind",
]

_MOST_STEPS = 2**31
_LEAVE_REASONS: Mapping[LeaveReason, str] = {
    reason: f"LEAVE_REASON_{'UNSPECIFIED' if reason is LeaveReason.NOT_TOLD else reason.name}"
    for reason in SAID_BY_AGENTS
}
_ACTIVITIES: Mapping[ActivityKind, str] = {
    kind: f"CLIENT_ACTIVITY_{kind.name}"
    for kind in ActivityKind
    if kind not in (ActivityKind.WAITING, ActivityKind.DELIVERING)
}
_PURPOSES: Mapping[UploadPurpose, str] = {purpose: f"UPLOAD_PURPOSE_{purpose.name}" for purpose in UploadPurpose}
_CLIENT_KINDS: Mapping[ParticipantKind, str] = {kind: f"CLIENT_KIND_{kind.name}" for kind in ParticipantKind}
_STAGE_KINDS: Mapping[StageKind, str] = {kind: f"STAGE_KIND_{kind.name}" for kind in StageKind}
_MODALITIES: Mapping[Modality, str] = {modality: f"MODALITY_{modality.name}" for modality in Modality}
_LEAVE_REASON_OF: Mapping[int, LeaveReason] = {pb.LeaveReason.Value(v): k for k, v in _LEAVE_REASONS.items()}
_ACTIVITY_OF: Mapping[int, ActivityKind] = {pb.ClientActivity.Value(v): k for k, v in _ACTIVITIES.items()}
_PURPOSE_OF: Mapping[int, UploadPurpose] = {pb.UploadPurpose.Value(v): k for k, v in _PURPOSES.items()}
_CLIENT_KIND_OF: Mapping[int, ParticipantKind] = {types_pb2.ClientKind.Value(v): k for k, v in _CLIENT_KINDS.items()}
_STAGE_KIND_OF: Mapping[int, StageKind] = {distillation_pb2.StageKind.Value(v): k for k, v in _STAGE_KINDS.items()}
_MODALITY_OF: Mapping[int, Modality] = {types_pb2.Modality.Value(v): k for k, v in _MODALITIES.items()}


def wire_leave_reason(reason: LeaveReason) -> str:
    """The name of the number that an agent's reason travels as; the federation's own travel as not told."""
    return _LEAVE_REASONS.get(reason, _LEAVE_REASONS[LeaveReason.NOT_TOLD])


def leave_reason_from_wire(number: int) -> LeaveReason:
    """The reason that an agent gave."""
    return _LEAVE_REASON_OF.get(number, LeaveReason.NOT_TOLD)


def wire_activity(kind: ActivityKind) -> str:
    """The name of the number that an activity travels as."""
    return _ACTIVITIES.get(kind, "CLIENT_ACTIVITY_UNSPECIFIED")


def activity_from_wire(number: int, step: int, steps: int) -> Activity | None:
    """What an agent said that it does; None if it said nothing that is known here."""
    kind = _ACTIVITY_OF.get(number)
    if kind is None:
        return None
    return Activity(kind, step, steps) if 0 < step <= steps < _MOST_STEPS else Activity(kind)


def wire_purpose(purpose: UploadPurpose) -> str:
    """The name of the number that an upload's purpose travels as."""
    return _PURPOSES[purpose]


def purpose_from_wire(number: int) -> UploadPurpose:
    """What an upload is for. Raises UploadError for an unknown number."""
    purpose = _PURPOSE_OF.get(number)
    if purpose is None:
        raise UploadError(f"upload_purpose {number} is none of {', '.join(UploadPurpose)}; update the agent")
    return purpose


def wire_client_kind(kind: ParticipantKind) -> str:
    """The name of the number that a client's kind travels as."""
    return _CLIENT_KINDS[kind]


def client_kind_from_wire(number: int) -> ParticipantKind | None:
    """A client's kind; None if it is not told or not known here."""
    return _CLIENT_KIND_OF.get(number)


def wire_stage_kind(kind: StageKind) -> str:
    """The name of the number that a stage's kind travels as."""
    return _STAGE_KINDS[kind]


def stage_kind_from_wire(number: int) -> StageKind:
    """A stage's kind. Raises InvalidRequestError for an unknown number."""
    kind = _STAGE_KIND_OF.get(number)
    if kind is None:
        raise InvalidRequestError(f"stage kind {number} is none of {', '.join(StageKind)}; update the distiller")
    return kind


def wire_modality(modality: Modality | None) -> str:
    """The name of the number that a modality travels as; None for what is about none."""
    return "MODALITY_UNSPECIFIED" if modality is None else _MODALITIES[modality]


def modality_from_wire(number: int) -> Modality | None:
    """A modality; None for what is about none."""
    return _MODALITY_OF.get(number)
