"""How an agent's commands end; docs/site.md lists the same."""

from __future__ import annotations

from enum import IntEnum

from fedafd.domain.errors import ConfigurationError, DataError, FedafdError

__all__ = ["ExitCode", "exit_code_of"]


class ExitCode(IntEnum):
    """A supervisor should restart an agent only after UNEXPECTED."""

    STOPPED = 0
    """Stopped on request; of a check: nothing is wrong."""
    UNEXPECTED = 1
    CONFIGURATION = 2
    REFUSED = 3
    DATA = 4
    UNREACHABLE = 5
    """Of a check: the aggregator does not answer."""
    WARNINGS = 6
    """Of a strict check: nothing is wrong, but something should be looked at."""


def exit_code_of(error: FedafdError) -> ExitCode:
    """What an error of ours ends an agent with."""
    if isinstance(error, DataError):
        return ExitCode.DATA
    return ExitCode.CONFIGURATION if isinstance(error, ConfigurationError) else ExitCode.REFUSED
