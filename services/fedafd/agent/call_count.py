"""What the small calls of an agent sent: how often each was made, and how long the requests were together."""

from __future__ import annotations

from collections import Counter

from google.protobuf.message import Message

from fedafd.agent.ledger import Ledger
from fedafd.domain.errors import FedafdError
from fedafd.telemetry.logging import get_logger

__all__ = ["CALLS", "CallCount"]

CALLS = "calls"
"""The ledger's word for them."""
_WRITTEN_DOWN = ("CommitUpload", "LeaveRound")
"""Calls that have entries of their own."""
_log = get_logger(__name__)


class CallCount:
    """Counts each try of a call, until it is written down in one line of the ledger."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._bytes = 0

    def add(self, method: str, request: Message) -> None:
        """A request is on its way."""
        if method not in _WRITTEN_DOWN:
            self._calls[method] += 1
            self._bytes += request.ByteSize()

    def write(self, ledger: Ledger, round_number: int) -> None:
        """Write down what was counted since the last time; where the disk does not take it, the next line has it."""
        if not self._calls:
            return
        calls, size_bytes = dict(self._calls), self._bytes
        detail = ", ".join(f"{count} {method}" for method, count in sorted(calls.items()))
        try:
            ledger.record(CALLS, sha256="", size_bytes=size_bytes, round_number=round_number, detail=detail)
        except (FedafdError, OSError) as error:
            _log.warning("agent.calls_not_written", reason=str(error))
            return
        self._calls.subtract(calls)
        self._calls += Counter()
        self._bytes -= size_bytes
