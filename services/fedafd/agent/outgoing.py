"""What may leave the site, decided in one place: everything that an agent says passes through here.

An error becomes a code and a count; its text, the names in it and its class stay in the agent's own log. Metrics are
those of a fixed list, and finite. Activities are an enum and two numbers.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedafd.domain.config import SharingConfig
from fedafd.domain.errors import (
    ArtifactCorruptError,
    BundleError,
    ConfigurationError,
    DataError,
    FedafdError,
    PublicSetError,
    StorageFullError,
)
from fedafd.domain.leaving import CLIENT_METRICS, Activity, ActivityKind, LeaveReason
from fedafd.domain.process_errors import PolicyRefusedError

__all__ = ["Departure", "activity_to_send", "departure_of", "fraction_to_send", "metrics_to_send", "samples_to_send"]

_MOST_AFFECTED = 2**40
_MOST_STEPS = 2**31 - 1
"""The largest counts that are sent; anything above is no count that this program makes."""

_BY_CODE: Mapping[str, LeaveReason] = {
    DataError.code: LeaveReason.DATA_UNUSABLE,
    PublicSetError.code: LeaveReason.PUBLIC_SET_UNUSABLE,
    BundleError.code: LeaveReason.BUNDLE_UNUSABLE,
    ConfigurationError.code: LeaveReason.CONFIGURATION_UNSUITABLE,
    StorageFullError.code: LeaveReason.DISK_FULL,
    ArtifactCorruptError.code: LeaveReason.DOWNLOAD_CORRUPT,
    "diverged": LeaveReason.TRAINING_DIVERGED,
    "invalid-representations": LeaveReason.TASK_NOT_UNDERSTOOD,
    "invalid-request": LeaveReason.TASK_NOT_UNDERSTOOD,
    "public-set-mismatch": LeaveReason.TASK_NOT_UNDERSTOOD,
    "not-found": LeaveReason.TASK_NOT_UNDERSTOOD,
    "invalid-upload": LeaveReason.TASK_NOT_UNDERSTOOD,
    "weights-not-shared": LeaveReason.WEIGHTS_NOT_SHARED,
    "state-unusable": LeaveReason.STATE_UNUSABLE,
}
"""By the code of an error of ours or of its nearest base that has an entry."""

_BY_NAME: Mapping[str, LeaveReason] = {
    "MemoryError": LeaveReason.OUT_OF_MEMORY,
    "OutOfMemoryError": LeaveReason.OUT_OF_MEMORY,
    "AcceleratorError": LeaveReason.DEVICE_UNAVAILABLE,
    "OSError": LeaveReason.DISK_FAILED,
}
"""By the name of an error's class or a base of it; torch's are not imported for this."""

_NO_MEMORY = "can't allocate memory"
"""In what torch says of a CPU's memory; it has no class for that."""


@dataclass(frozen=True)
class Departure:
    """All that is said of an error."""

    reason: LeaveReason
    num_affected: int = 0


def departure_of(error: BaseException, share: SharingConfig) -> Departure:
    """The code and the count that an error leaves the site as; no count where the site shares no metrics."""
    return Departure(_reason(error), _affected(error) if share.metrics else 0)


def metrics_to_send(metrics: Mapping[str, float], share: SharingConfig) -> dict[str, float]:
    """The metrics that leave: those of the fixed list, finite; none where the site shares none."""
    if not share.metrics:
        return {}
    return {name: float(metrics[name]) for name in sorted(CLIENT_METRICS & metrics.keys()) if _finite(metrics[name])}


def samples_to_send(num_private_samples: int, share: SharingConfig) -> int:
    """The number of private samples that is told; 0, not told, where the site shares no metrics."""
    return num_private_samples if share.metrics else 0


def fraction_to_send(fraction: float) -> float:
    """The done share as a number from 0 to 1, in whole percents: finer ones would tell how many batches there are."""
    return round(min(max(float(fraction), 0.0), 1.0), 2) if _finite(fraction) else 0.0


def activity_to_send(activity: Activity) -> Activity:
    """The activity with numbers that are steps, or none."""
    if 0 < activity.step <= activity.steps <= _MOST_STEPS:
        return activity
    return Activity(activity.kind if isinstance(activity.kind, ActivityKind) else ActivityKind.TRAINING)


def _reason(error: BaseException) -> LeaveReason:
    if isinstance(error, PolicyRefusedError):
        return error.reason
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LeaveReason.DISK_FULL
    for kind in type(error).__mro__:
        if issubclass(kind, FedafdError):
            known = _BY_CODE.get(kind.code)
        else:
            known = _BY_NAME.get(kind.__name__)
        if known is not None:
            return known
    return LeaveReason.OUT_OF_MEMORY if _NO_MEMORY in str(error) else LeaveReason.UNEXPECTED


def _affected(error: BaseException) -> int:
    count = error.data.get("affected") if isinstance(error, FedafdError) and hasattr(error, "data") else None
    return count if type(count) is int and 0 < count <= _MOST_AFFECTED else 0


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
