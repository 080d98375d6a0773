"""What a check of a site found: one line each, fine, a warning or an error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fedafd.agent.exit_codes import ExitCode

__all__ = ["Finding", "Level", "error", "fine", "warning", "worst_exit_code"]


class Level(StrEnum):
    """How bad it is."""

    FINE = "fine"
    NOTE = "note"
    """Good to know."""
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    about: str
    """A word or two, such as `device`."""
    level: Level
    text: str
    exit_code: ExitCode = ExitCode.STOPPED
    """Of an error: what the check ends with."""


def fine(about: str, text: str) -> Finding:
    """Nothing is wrong with it."""
    return Finding(about=about, level=Level.FINE, text=text)


def note(about: str, text: str) -> Finding:
    """Good to know, and nothing to do about it."""
    return Finding(about=about, level=Level.NOTE, text=text)


def warning(about: str, text: str) -> Finding:
    """A person should look at it."""
    return Finding(about=about, level=Level.WARNING, text=text)


def error(about: str, text: str, exit_code: ExitCode) -> Finding:
    """The agent would not run."""
    return Finding(about=about, level=Level.ERROR, text=text, exit_code=exit_code)


def worst_exit_code(findings: Iterable[Finding], *, strict: bool) -> ExitCode:
    """The first of the errors' codes in the order configuration, data, aggregator; warnings count if `strict`."""
    listed = list(findings)
    codes = sorted(finding.exit_code for finding in listed if finding.level is Level.ERROR)
    if codes:
        return codes[0]
    warned = strict and any(finding.level is Level.WARNING for finding in listed)
    return ExitCode.WARNINGS if warned else ExitCode.STOPPED
