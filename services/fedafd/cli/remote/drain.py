"""`fedafd drain` and `fedafd resume`: let what runs finish and start nothing new, before an upgrade or a backup."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from fedafd.cli.remote.server import DEFAULT_URL, ApiKey, Server, Url
from fedafd.domain.errors import FedafdError

__all__ = ["drain", "resume"]

_LOOK_SECONDS = 1.0


class StillRunningError(FedafdError):
    """The time is up and rounds still run."""

    code = "still-running"


def drain(
    reason: Annotated[str | None, typer.Option(help="For the audit log.")] = None,
    wait: Annotated[bool, typer.Option(help="Return only when no round runs any more.")] = True,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait; unset: no limit.")] = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
) -> None:
    """Hold queued rounds and wait for running ones; exits with 1 if some still run when the time is up."""
    server = Server(url, api_key)
    state = server.ask("PUT", "/drain", json={"reason": reason})
    started = time.monotonic()
    while wait and state["running"]:
        if timeout is not None and time.monotonic() - started > timeout:
            raise StillRunningError(f"after {timeout:g} s these rounds still run and go on: {_listed(state)}")
        time.sleep(_LOOK_SECONDS)
        state = server.ask("GET", "/drain")
    typer.echo(f"draining; still running: {_listed(state)}" if state["running"] else "drained: no round runs")


def resume(api_key: ApiKey = "", url: Url = DEFAULT_URL) -> None:
    """Let queued rounds start again."""
    Server(url, api_key).ask("DELETE", "/drain")
    typer.echo("queued rounds start again")


def _listed(state: dict[str, Any]) -> str:
    return ", ".join(f"{each['federation']}/{each['number']} ({each['state']})" for each in state["running"])
