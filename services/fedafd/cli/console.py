"""Where commands print for people: on a terminal by its width, to a pipe or a file as wide as the text is."""

from __future__ import annotations

from rich.console import Console

__all__ = ["console_for", "print_markdown"]

_NO_LIMIT = 100_000
"""Columns: whoever reads a pipe cuts lines himself."""


def console_for(*, stderr: bool = False) -> Console:
    """The console of standard output, or error. COLUMNS counts on a terminal only."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_NO_LIMIT)


def print_markdown(text: str, console: Console) -> None:
    """Drawn on a terminal; elsewhere as it is written, which keeps its tables whole."""
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(text))
    else:
        console.print(text, soft_wrap=True, markup=False, highlight=False)
