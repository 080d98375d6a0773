"""The enums of the wire and those of the domain, one for one.

A number that this program does not know, from a newer agent, becomes the value that says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedafd.domain.errors import UploadError
from fedafd.domain.kinds import UploadPurpose
from fedafd.domain.leaving import SAID_BY_AGENTS, Activity, ActivityKind, LeaveReason
from fedafd.proto.v1 import aggregator_pb2 as pb

__all__ = [
    "activity_from_wire",
    "leave_reason_from_wire",
    "purpose_from_wire",
    "wire_activity",
    "wire_leave_reason",
    "wire_purpose",
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
_LEAVE_REASON_OF: Mapping[int, LeaveReason] = {pb.LeaveReason.Value(v): k for k, v in _LEAVE_REASONS.items()}
_ACTIVITY_OF: Mapping[int, ActivityKind] = {pb.ClientActivity.Value(v): k for k, v in _ACTIVITIES.items()}
_PURPOSE_OF: Mapping[int, UploadPurpose] = {pb.UploadPurpose.Value(v): k for k, v in _PURPOSES.items()}


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
    """What an upload is for. Raises UploadError for a number that is none."""
    purpose = _PURPOSE_OF.get(number)
    if purpose is None:
        raise UploadError(f"upload_purpose {number} is none of {', '.join(UploadPurpose)}; update the agent")
    return purpose
