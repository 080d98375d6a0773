"""Log events as lines for people: the time of day, a sentence, and what else the event holds behind it.

    10:31:02  enrolled (federation 3f0c, client ward-3)
    10:31:40  warning: another agent has this site's credential (round 4)

A process may bring sentences for its events; without one an event's own name is the sentence, its dots read as spaces.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any

from fedafd.domain.errors import FedafdError
from fedafd.domain.plain_text import OBEYED

__all__ = ["ConsoleLines"]

_HIDDEN = frozenset({"timestamp", "level", "logger", "process", "event", "reason", "exc_info", "stack", "exception"})
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"


class ConsoleLines:
    """A structlog renderer. `sentences` gives an event's words by its name; fields in braces are filled in."""

    def __init__(self, sentences: Mapping[str, str], *, colours: bool) -> None:
        self._sentences, self._colours = sentences, colours

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> str:
        """One line, and the stack trace of an error that is none of ours below it."""
        level = str(event.get("level", "info"))
        name = str(event.get("event", ""))
        words, used = self._sentence(name, event)
        rest = ", ".join(f"{key} {_plain(value)}" for key, value in event.items() if key not in _HIDDEN | used)
        mark = "" if level in ("info", "debug") else f"{level}: "
        line = f"{time.strftime('%H:%M:%S')}  {self._coloured(mark + words, _COLOURS.get(level, ''))}"
        if rest:
            line += self._coloured(f" ({rest})", _DIM)
        return line + _trace(event)

    def _sentence(self, name: str, event: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
        """The words for an event, and the fields that they already tell."""
        template = self._sentences.get(name)
        reason = _plain(event["reason"]) if event.get("reason") else ""
        if template is None:
            spoken = name.replace(".", " ").replace("_", " ")
            return (f"{spoken}: {reason}" if reason else spoken), frozenset()
        fields = frozenset(key for key in event if f"{{{key}}}" in template)
        words = template
        for key in fields:
            words = words.replace(f"{{{key}}}", _plain(event[key]))
        return (f"{words}: {reason}" if reason and "reason" not in fields else words), fields

    def _coloured(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colours and colour else text


def _plain(value: Any) -> str:
    """In one line, with what could move the cursor, hide text or turn it around, as in a file's name, written out."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return OBEYED.sub(_shown, text)


def _shown(obeyed: re.Match[str]) -> str:
    return "".join(c if c == "\t" else c.encode("unicode_escape").decode() for c in obeyed[0])


def _trace(event: Mapping[str, Any]) -> str:
    info: Any = event.get("exc_info")
    error = info if isinstance(info, BaseException) else (info if isinstance(info, tuple) else sys.exc_info())[1]
    if not info or error is None or isinstance(error, FedafdError):
        return ""
    lines = "".join(traceback.format_exception(error)).rstrip().split("\n")
    return "\n" + "\n".join(map(_plain, lines))
