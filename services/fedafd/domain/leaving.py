"""What a site may say about its part in a round: codes and numbers with the words that the federation has for them.

No text of a site travels. An agent sends a code and, where it helps, a count; the aggregator turns them into these
words for events, REST and the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "CLIENT_METRICS",
    "LEFT",
    "SAID_BY_AGENTS",
    "Activity",
    "ActivityKind",
    "LeaveReason",
    "leave_words",
    "some",
]


LEFT = "left: "
"""Before the words of a client that left a round by itself."""


_MOST_NAMED = 5


class LeaveReason(StrEnum):
    """Why a client has no delivery in a round."""

    NOT_TOLD = "not-told"
    DATA_UNUSABLE = "data-unusable"
    PUBLIC_SET_UNUSABLE = "public-set-unusable"
    BUNDLE_UNUSABLE = "bundle-unusable"
    CONFIGURATION_UNSUITABLE = "configuration-unsuitable"
    WEIGHTS_NOT_SHARED = "weights-not-shared"
    STATE_UNUSABLE = "state-unusable"
    DEVICE_UNAVAILABLE = "device-unavailable"
    OUT_OF_MEMORY = "out-of-memory"
    DISK_FULL = "disk-full"
    DISK_FAILED = "disk-failed"
    TRAINING_DIVERGED = "training-diverged"
    DOWNLOAD_CORRUPT = "download-corrupt"
    TASK_NOT_UNDERSTOOD = "task-not-understood"
    REGION_ROUND_FAILED = "region-round-failed"
    POLICY_ENCODER = "policy-encoder"
    POLICY_PRETRAINED = "policy-pretrained"
    POLICY_EFFORT = "policy-effort"
    POLICY_VALUES = "policy-values"
    POLICY_PUBLIC_SET = "policy-public-set"
    POLICY_DOWNLOAD = "policy-download"
    POLICY_HOURS = "policy-hours"
    POLICY_ROUNDS = "policy-rounds"
    POLICY_APPROVAL = "policy-approval"
    UNEXPECTED = "unexpected"
    DEADLINE = "deadline"
    SILENT = "silent"
    REVOKED = "revoked"

    @property
    def words(self) -> str:
        """For operators: what it means and who can do what about it."""
        return _WORDS[self]


_WORDS: Mapping[LeaveReason, str] = {
    LeaveReason.NOT_TOLD: "it gave no reason; the log of the site's agent may have one",
    LeaveReason.DATA_UNUSABLE: "its private data cannot be used; the log of the site's agent names what and where",
    LeaveReason.PUBLIC_SET_UNUSABLE: (
        "it could not read the federation's public set, which is no fault of its own data; the log of the site's agent"
        " names the shard or the sample, and the federation needs a public set without it"
    ),
    LeaveReason.BUNDLE_UNUSABLE: (
        "it could not load a global encoder that the server sent; the log of the site's agent says why. Its agent may"
        " be older than the federation"
    ),
    LeaveReason.CONFIGURATION_UNSUITABLE: (
        "its configuration does not fit the federation's or its machine; the log of the site's agent names the key"
    ),
    LeaveReason.WEIGHTS_NOT_SHARED: (
        "the federation's strategy averages weights, and this site shares none; it would take part with"
        " share.weights: true in its agent.yaml"
    ),
    LeaveReason.STATE_UNUSABLE: "its state of earlier rounds cannot be used; the log of the site's agent says why",
    LeaveReason.DEVICE_UNAVAILABLE: "its computing device is not there or failed; the site looks at the agent's device",
    LeaveReason.OUT_OF_MEMORY: "its memory did not suffice; the site gives the agent more, or trains smaller batches",
    LeaveReason.DISK_FULL: "its disk is full; the site frees some space or moves state_dir",
    LeaveReason.DISK_FAILED: "it could not read or write its disk; the log of the site's agent names the file",
    LeaveReason.TRAINING_DIVERGED: "its training lost its footing: a loss was not finite; a lower learning rate helps",
    LeaveReason.DOWNLOAD_CORRUPT: "what it downloaded did not have the announced hash, time and again",
    LeaveReason.TASK_NOT_UNDERSTOOD: "it could not follow the task; its agent may be older than the federation",
    LeaveReason.REGION_ROUND_FAILED: "its own round failed or was cancelled; the region's operator sees why",
    LeaveReason.POLICY_ENCODER: (
        "its policy refuses an encoder of the round, for its size or its architecture; the log of the site's agent has"
        " the numbers"
    ),
    LeaveReason.POLICY_PRETRAINED: (
        "its policy does not allow the pretrained weights that the federation names for its model; the site allows them"
        " by policy.pretrained in its agent.yaml, or names an encoder of its own there"
    ),
    LeaveReason.POLICY_EFFORT: (
        "its policy allows fewer epochs or minutes of training; the log of the site's agent has the numbers"
    ),
    LeaveReason.POLICY_VALUES: (
        "its policy does not allow a value of the federation's configuration; the log of the site's agent names the key"
    ),
    LeaveReason.POLICY_PUBLIC_SET: "its policy does not name the round's public set",
    LeaveReason.POLICY_DOWNLOAD: (
        "its policy does not let it download as much as the round needs; the log of the site's agent has the numbers"
    ),
    LeaveReason.POLICY_HOURS: "its policy does not let it train at this hour",
    LeaveReason.POLICY_ROUNDS: "its data were used for as many rounds as its policy allows",
    LeaveReason.POLICY_APPROVAL: (
        "its policy has a person approve the federation's configuration or public set first; the site runs"
        " `fedafd agent approve`"
    ),
    LeaveReason.UNEXPECTED: "an unexpected error; the log of the site's agent has it",
    LeaveReason.DEADLINE: "the round's deadline passed",
    LeaveReason.SILENT: "no sign of progress",
    LeaveReason.REVOKED: "the client was revoked",
}

_SAID_BY_THE_FEDERATION = frozenset({LeaveReason.DEADLINE, LeaveReason.SILENT, LeaveReason.REVOKED})
SAID_BY_AGENTS: frozenset[LeaveReason] = frozenset(LeaveReason) - _SAID_BY_THE_FEDERATION
"""What an agent may give as its reason; the others are the federation's own."""


def leave_words(reason: LeaveReason, num_affected: int = 0) -> str:
    """The reason in words; `num_affected` is how many items (samples, files, values) it is about, 0 if not told."""
    return f"{reason.words} ({num_affected:,} affected)" if num_affected else reason.words


def some(names: Sequence[str]) -> str:
    """The first few names of clients, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


class ActivityKind(StrEnum):
    """What a client is doing, in the words that are shown."""

    WAITING = "waiting for a task"
    DOWNLOADING = "downloading"
    READING_DATA = "reading data"
    TRAINING = "local epoch"
    CALIBRATING = "calibrating the gate"
    REPRESENTING = "representing the public set"
    EVALUATING = "evaluating"
    UPLOADING = "uploading"
    DELIVERING = "delivering"
    COLLECTING = "collecting from its sites"
    WAITING_FOR_DISK = "waiting for its disk"


@dataclass(frozen=True)
class Activity:
    """What a client is doing, and which of how many: epochs, files."""

    kind: ActivityKind
    step: int = 0
    """From 1; 0 if it has no steps."""
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.kind.value} {self.step} of {self.steps}" if self.steps else self.kind.value


_MODELS = ("federated", "fused", "local", "global", "alone")
_CLASSIFICATION = ("acc1", "acc5", "own_acc1")
_RETRIEVAL = (*(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)), "rsum")

_LABELS = ("lrap", "map", "micro_f1")

_COMPARED = ("over_local", "over_global", "over_alone")
_PAIRED = ("difference", "standard_error")

CLIENT_METRICS: frozenset[str] = frozenset(
    {f"{model}/{name}" for model in _MODELS for name in (*_CLASSIFICATION, *_LABELS, *_RETRIEVAL)}
    | {f"{pair}/{name}" for pair in _COMPARED for name in _PAIRED}
)
"""Every name of a metric that a client may send; others neither leave a site nor are taken."""
