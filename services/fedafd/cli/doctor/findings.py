"""What the doctor found: one line each, with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

__all__ = ["Finding", "Level", "bad", "fine", "look", "worst"]


class Level(StrEnum):
    """How bad it is."""

    FINE = "fine"
    LOOK = "look"
    """It works; a person should look at it before long."""
    BAD = "bad"
    """A process would not start, or would not do its work."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    about: str
    """A word or two, such as `disk`."""
    level: Level
    words: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """As JSON."""
        return asdict(self) | {"level": self.level.value}


def fine(about: str, words: str) -> Finding:
    """Nothing is wrong with it."""
    return Finding(about=about, level=Level.FINE, words=words)


def look(about: str, words: str, remedy: str) -> Finding:
    """Something to look at."""
    return Finding(about=about, level=Level.LOOK, words=words, remedy=remedy)


def bad(about: str, words: str, remedy: str) -> Finding:
    """Something that keeps a process from its work."""
    return Finding(about=about, level=Level.BAD, words=words, remedy=remedy)


def worst(findings: Iterable[Finding]) -> Level:
    """The worst of them."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.FINE)
