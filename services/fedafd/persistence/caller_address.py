"""From where the caller asks whose request or RPC is being answered, for the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["asked_from", "caller_address", "note_caller_address"]

_LONGEST = 64
_address: ContextVar[str | None] = ContextVar("caller_address", default=None)


def caller_address() -> str | None:
    """The address; None for what this process does of its own accord."""
    return _address.get()


def note_caller_address(address: str | None) -> None:
    """From here on this task answers whoever asks from there."""
    _address.set(None if address is None else address[:_LONGEST])


@contextmanager
def asked_from(address: str | None) -> Iterator[None]:
    """Within it, whoever asks does so from there."""
    before = _address.get()
    note_caller_address(address)
    try:
        yield
    finally:
        _address.set(before)
