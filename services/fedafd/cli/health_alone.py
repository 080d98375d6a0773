"""`fedafd health` without the other commands: containers run it several times a minute, and need none of them."""

from __future__ import annotations

import typer

from fedafd.cli.health import health
from fedafd.cli.running import run

__all__ = ["main"]


def main() -> None:
    """Entry of the program where its command is `health`."""
    app = typer.Typer(
        name="fedafd",
        rich_markup_mode="rich",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command()(health)
    app.callback()(_only_group)
    run(app)


def _only_group() -> None:
    """Typer makes a lone command the program itself, unless it has a callback."""
