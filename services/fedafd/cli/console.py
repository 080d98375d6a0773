"""Where commands print for people: on a terminal by its width, to a pipe or a file as wide as the text is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from fedafd.domain.plain_text import OBEYED

__all__ = ["console_for", "print_markdown"]

_NO_LIMIT = 100_000
"""Columns: whoever reads a pipe cuts lines himself."""


class _PlainConsole(Console):
    """Draws, and lets nothing through that a terminal obeys, but what it draws with itself.

    rich takes a few control characters out of texts and leaves the rest, ESC among them.
    """

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """The renderable's parts, in each text nothing but text; what is taken out has no width."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                plain = "\n".join(OBEYED.sub("", line) for line in segment.text.split("\n"))
                yield segment if plain == segment.text else Segment(plain, segment.style)


def console_for(*, stderr: bool = False) -> Console:
    """The console of standard output, or error. COLUMNS counts on a terminal only.

    A string that it prints, alone or in a table, is text: one with rich's markup in it may be what others wrote, and
    they would end the command by a tag that closes nothing, or draw a link. What is styled is a Text.
    """
    console = _PlainConsole(stderr=stderr, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return _PlainConsole(stderr=stderr, markup=False, emoji=False, width=_NO_LIMIT)


def print_markdown(text: str, console: Console) -> None:
    """Drawn on a terminal; elsewhere as it is written, which keeps its tables whole."""
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(text))
    else:
        console.print(text, soft_wrap=True, markup=False, highlight=False)
