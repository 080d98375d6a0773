"""How an agent's commands end; docs/site.md lists the same."""

from __future__ import annotations

from enum import IntEnum

from fedafd.domain.errors import ConfigurationError, DataError, FedafdError, IdentityInUseError, StorageFullError

__all__ = ["ExitCode", "exit_code_of"]


class ExitCode(IntEnum):
    """A supervisor should restart an agent only after UNEXPECTED, DISK_FULL and SECOND_AGENT, which may pass."""

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
    DISK_FULL = 7
    SECOND_AGENT = 8
    """Another agent of this client, or on this state folder, is alive."""


def exit_code_of(error: FedafdError) -> ExitCode:
    """What an error of ours ends an agent with."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), ExitCode.REFUSED)


_CODES: dict[type[FedafdError], ExitCode] = {
    DataError: ExitCode.DATA,
    ConfigurationError: ExitCode.CONFIGURATION,
    StorageFullError: ExitCode.DISK_FULL,
    IdentityInUseError: ExitCode.SECOND_AGENT,
}
