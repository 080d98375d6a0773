"""What the fixture `simulate` gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Simulate", "Simulated"]


class Simulated(NamedTuple):
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Simulate = Callable[..., Simulated]
