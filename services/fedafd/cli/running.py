"""Runs a command line: errors of ours become one line and an exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from fedafd.domain.errors import ConfigurationError, FedafdError
from fedafd.domain.plain_text import plain_text

__all__ = ["EXTRAS", "run"]

EXTRAS = {
    "agent": "agent",
    "aggregator": "aggregator",
    "audit": "agent",
    "control-plane": "control-plane",
    "demo": "demo",
    "distiller": "distiller",
    "health": "rpc",
    "migrate": "database",
    "predict": "learning",
    "queries": "distiller",
    "region": "aggregator",
    "search": "learning",
    "simulate": "simulation",
    "store": "control-plane",
    "up": "demo",
}
"""What of pyproject.toml's optional dependencies a command needs, by its first word."""


def run(app: typer.Typer) -> None:
    """Run it on sys.argv; docs/operator.md lists the exit codes."""
    try:
        app()
    except ConfigurationError as error:
        _end(error, 2)
    except FedafdError as error:
        _end(error, getattr(error, "exit_code", 1))
    except ModuleNotFoundError as error:
        if (error.name or "fedafd").startswith("fedafd"):
            raise
        extra = EXTRAS.get(next((word for word in sys.argv[1:] if not word.startswith("-")), ""), "all")
        _end(f"this command needs {error.name}, which is not installed: pip install 'fedafd[{extra}]'", 2)
    except OSError as error:
        # A full disk, a folder that may not be written to: nothing of ours is wrong, so no stack trace.
        _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    finally:
        # CPython remembers a Ctrl-C that reached code in a string, such as that of a dataclass being imported, and ends
        # the process by SIGINT although somebody has caught it. The next such code makes it forget (pythonrun.c).
        eval("None")  # noqa: S307


def _end(error: FedafdError | str, exit_code: int) -> NoReturn:
    # Line by line: a message of ours may have several, and may tell what others wrote.
    lines = "\n".join(plain_text(line) for line in str(error).split("\n"))
    typer.secho(f"error: {lines}", fg="red", err=True)
    raise SystemExit(exit_code)
