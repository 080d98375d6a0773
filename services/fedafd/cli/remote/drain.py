"""`fedafd drain` and `fedafd resume`: let what runs finish and start nothing new, before an upgrade or a backup."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fedafd.cli.output_format import Output, OutputFormat, print_answer
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Url, connect
from fedafd.cli.remote.output import print_line
from fedafd.client import operations
from fedafd.client.answers import Drain
from fedafd.client.control_plane import PATIENCE_SECONDS, ControlPlaneClient
from fedafd.domain.process_errors import ControlPlaneError, StillRunningError

__all__ = ["drain", "resume"]

_LOOK_SECONDS = 1.0
_INTERRUPTED = 130
_NOT_AS_ASKED = 6


def drain(
    reason: Annotated[str | None, typer.Option(help="For the audit log.")] = None,
    wait: Annotated[bool, typer.Option(help="Return only when no round runs any more.")] = True,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait; unset: no limit.")] = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Hold queued rounds and wait for running ones; exits with 1 if some still run when the time is up."""
    server = connect(url, api_key)
    state = server.ask(operations.DRAIN, json={"reason": reason})
    if wait:
        try:
            state = _waited(server, state, timeout)
        except KeyboardInterrupt:
            print_line(
                "not waiting any more; the service stays drained: rounds that run go on to their end, queued ones wait"
                " until `fedafd resume`",
                err=True,
            )
            raise typer.Exit(_INTERRUPTED) from None
    if output.is_data:
        print_answer(state, output)
        return
    print_line(f"draining; still running: {_listed(state)}" if state["running"] else "drained: no round runs")


def resume(api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE) -> None:
    """Let queued rounds start again."""
    state = connect(url, api_key).ask(operations.RESUME)
    if output.is_data:
        print_answer(state, output)
    else:
        print_line("queued rounds start again")


def _waited(server: ControlPlaneClient, state: Drain, timeout: float | None) -> Drain:
    """The state when no round runs any more; tells on standard error what it waits for, whenever that changes."""
    started, last_words = time.monotonic(), ""
    while state["running"]:
        if (now := _listed(state)) != last_words:
            print_line(f"queued rounds wait; still running: {now}", err=True)
            last_words = now
        if timeout is not None and time.monotonic() - started >= timeout:
            raise StillRunningError(
                f"after {timeout:g} s these rounds still run and go on: {now}; the service stays drained"
            )
        time.sleep(_LOOK_SECONDS)
        state = _look(server)
        if not state["draining"]:
            raise ControlPlaneError("somebody resumed the service meanwhile: it is not drained", _NOT_AS_ASKED)
    return state


def _look(server: ControlPlaneClient) -> Drain:
    """The state; asked again for a while where the control plane is away, since it may be restarted meanwhile."""
    away_since = time.monotonic()
    while True:
        try:
            return server.ask(operations.DRAIN_STATE)
        except ControlPlaneError as error:
            if not error.passing or time.monotonic() - away_since > PATIENCE_SECONDS:
                raise
            time.sleep(_LOOK_SECONDS)


def _listed(state: Drain) -> str:
    return ", ".join(
        f"{running_round['federation']}/{running_round['number']} ({running_round['state']})"
        for running_round in state["running"]
    )
