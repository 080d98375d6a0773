"""Errors that stay in the process that raises them: they end a command, a part in a round or a stage.

Those that travel over REST or gRPC stand in `errors`; `docs/errors.md` lists both.
"""

from __future__ import annotations

from typing import Any

from fedafd.domain.errors import ConfigurationError, FedafdError
from fedafd.domain.leaving import LeaveReason

__all__ = [
    "PROCESS_ERRORS",
    "ChildFailedError",
    "ControlPlaneError",
    "ControlPlaneUnreachableError",
    "DivergedError",
    "HandedBackError",
    "IncompleteStoreError",
    "InvalidOptimizerError",
    "NotHealthyError",
    "PassingAnswerError",
    "PolicyRefusedError",
    "StillRunningError",
    "UnexpectedAnswerError",
    "UnreachableError",
    "WeightsNotSharedError",
    "WorkerLostError",
]


class UnexpectedAnswerError(FedafdError):
    """An aggregator answered with a gRPC status that no error of its own stands for, such as an internal failure."""

    code = "unexpected-answer"


class PassingAnswerError(UnexpectedAnswerError):
    """An aggregator answered with a status that passes, such as ABORTED; the call is repeated."""

    code = "passing-answer"
    retryable = True


class UnreachableError(FedafdError):
    """The aggregator cannot be reached or does not answer in time."""

    code = "unreachable"
    retryable = True


class ControlPlaneError(FedafdError):
    """The control plane refused what a command asked for; the message is the problem's detail."""

    code = "control-plane"

    def __init__(self, message: str, exit_code: int = 1, *, passing: bool = False) -> None:
        """`passing`: the server is away or cannot serve at the moment."""
        super().__init__(message)
        self.exit_code = exit_code
        self.passing = passing


class ControlPlaneUnreachableError(ControlPlaneError):
    """The control plane cannot be reached by a command; the message says what to look at."""

    code = "control-plane-unreachable"
    retryable = True

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"{url}: cannot be reached{reason}; is the control plane up, is FEDAFD_URL right?", 3, passing=True
        )


class NotHealthyError(FedafdError):
    """`fedafd health`: the process does not answer, or says that it cannot serve."""

    code = "not-healthy"


class StillRunningError(FedafdError):
    """`fedafd drain`: the time is up and rounds still run."""

    code = "still-running"


class IncompleteStoreError(FedafdError):
    """`fedafd store verify`: objects that the database names are not there, or are not what they were."""

    code = "incomplete-store"


class ChildFailedError(FedafdError):
    """`fedafd demo`: a child process ended by itself; the message has the end of its log and where the log lies."""

    code = "child-failed"


class WeightsNotSharedError(ConfigurationError):
    """The federation averages weights, and this site shares none; set `share.weights` in agent.yaml."""

    code = "weights-not-shared"


class PolicyRefusedError(FedafdError):
    """The site's policy in agent.yaml refuses the round; the message has the numbers, a code leaves."""

    code = "policy-refused"
    reason: LeaveReason = LeaveReason.POLICY_VALUES

    def __init__(self, message: str, reason: LeaveReason, **data: Any) -> None:
        super().__init__(message, **data)
        self.reason = reason


class InvalidOptimizerError(ConfigurationError, ValueError):
    """An optimizer was given a learning rate, decay or beta that is out of range; the message names each value."""

    code = "invalid-optimizer"


class DivergedError(FedafdError):
    """Training diverged: a loss is not a finite number. Lower the learning rate, or look for broken samples."""

    code = "diverged"


class HandedBackError(Exception):
    """The process ends between two steps of its work: what is done is kept, and another goes on from there.

    No failure of the work, and so none of the errors that docs/errors.md lists.
    """


class WorkerLostError(FedafdError):
    """A training process died; the stage is tried again."""

    code = "worker-lost"
    retryable = True


PROCESS_ERRORS: tuple[type[FedafdError], ...] = (
    UnexpectedAnswerError,
    PassingAnswerError,
    UnreachableError,
    ControlPlaneError,
    ControlPlaneUnreachableError,
    NotHealthyError,
    StillRunningError,
    IncompleteStoreError,
    ChildFailedError,
    WeightsNotSharedError,
    PolicyRefusedError,
    InvalidOptimizerError,
    DivergedError,
    WorkerLostError,
)
