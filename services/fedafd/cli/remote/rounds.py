"""`fedafd round`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from fedafd.cli.console import console_for
from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Federation, Url, connect
from fedafd.cli.remote.outcome import (
    delivered_words,
    duration_words,
    missing_words,
    phase_words,
    round_seconds,
    took_words,
)
from fedafd.cli.remote.output import percent, print_line, print_table, short_time
from fedafd.client import operations
from fedafd.client.answers import Participation, Round, RoundDetails, Stage
from fedafd.client.control_plane import Connected, ControlPlaneClient, RoundProgress, RoundWaits
from fedafd.domain.counted import byte_size
from fedafd.domain.plain_text import plain_text
from fedafd.domain.process_errors import ControlPlaneError

__all__ = ["follow_rounds", "round_app"]

round_app = typer.Typer(help="Start, list, watch and cancel rounds.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(min=1, help="The round's number.")]
_OVER = frozenset({"completed", "failed", "cancelled"})
_AT_WORK = frozenset({"invited", "training", "pending", "running"})
_INTERRUPTED = 130


@round_app.command("start", cls=AnswerCommand)
def start(
    federation: Federation,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 1,
    watch: Annotated[bool, typer.Option("--watch", help="Follow them until the last is over.")] = False,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Queue rounds; with --watch exits with 1 if one does not complete."""
    server = connect(url, api_key)
    numbers = [
        queued["number"] for queued in server.ask(operations.START_ROUNDS, federation, json={"count": rounds})["items"]
    ]
    if watch:
        follow_rounds(server, federation, numbers, output=output)
    elif output.is_data:
        print_answer({"numbers": numbers}, output)
    else:
        print_line(f"queued: {', '.join(f'round {number}' for number in numbers)}")


@round_app.command("watch", cls=AnswerCommand)
def watch_rounds(
    federation: Federation,
    number: Annotated[int | None, typer.Argument(min=1, help="The round; without it all that are open.")] = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Follow a round, or all open ones, until the last is over; exits with 1 if one does not complete."""
    server = connect(url, api_key)
    rounds = [] if number else server.items(operations.LIST_ROUNDS, federation)
    numbers = [number] if number else [details["number"] for details in rounds if details["state"] not in _OVER]
    if not numbers:
        print_line("no round is open", err=True)
        return
    follow_rounds(server, federation, numbers, output=output)


@round_app.command("list", cls=AnswerCommand)
def list_all(
    federation: Federation, api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE
) -> None:
    """List rounds."""
    listed = connect(url, api_key).items(operations.LIST_ROUNDS, federation)
    if output.is_data:
        print_answer(listed, output)
        return
    rows = [
        (r["number"], r["state"], _rsum(r), short_time(r["started_at"]), short_time(r["finished_at"]), r["reason"])
        for r in listed
    ]
    columns = ["ROUND", "STATE", "RSUM", "STARTED", "FINISHED", "REASON"]
    print_table(columns, rows, "no round yet; `fedafd round start`")


@round_app.command("show", cls=AnswerCommand)
def show(
    number: Number,
    federation: Federation,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show one round: who takes part, what the distillers do, and how long each took."""
    details = connect(url, api_key).ask(operations.SHOW_ROUND, federation, number)
    if output.is_data:
        print_answer(details, output)
        return
    seconds = round_seconds(details)
    took = "" if seconds is None else f", {duration_words(seconds)}"
    print_line(f"round {number}: {details['state']}{took}" + (f" ({details['reason']})" if details["reason"] else ""))
    if details["num_online"] is not None:
        print_line(f"{len(details['participations'])} of {details['num_online']} sites that were online are invited")
    if missing := missing_words(details):
        print_line(f"{delivered_words(details)}; {missing}")
    if details["metrics"]:
        print_line(
            "  ".join(f"{name} {value:.1f}" for name, value in sorted(details["metrics"].items()) if value is not None)
        )
    over = details["finished_at"]
    parts = [
        (
            p["client"],
            p["kind"] if p["num_clients"] is None else f"{p['kind']} of {p['num_clients']}",
            p["state"],
            took_words(details["collecting_since"], p["settled_at"], over),
            phase_words(p, details["collecting_since"], over),
            percent(p["progress"]),
            byte_size(p["bytes_up"]),
            byte_size(p["bytes_down"]),
            _counts(p),
            _why(p),
        )
        for p in details["participations"]
    ]
    columns = [
        "CLIENT",
        "KIND",
        "STATE",
        "TOOK",
        "DOWNLOAD, TRAIN, UPLOAD",
        "DONE",
        "UP",
        "DOWN",
        "WEIGHT",
        "ACTIVITY OR REASON",
    ]
    print_table(columns, parts, "nobody invited yet")
    stages = [
        (
            s["kind"],
            s["modality"],
            s["state"],
            took_words(s["announced_at"], s["finished_at"], over),
            percent(s["progress"]),
            s["worker"],
            _why(s),
        )
        for s in details["stages"]
    ]
    print_table(["STAGE", "MODALITY", "STATE", "TOOK", "DONE", "WORKER", "ACTIVITY OR REASON"], stages, "no stage yet")


@round_app.command("cancel", cls=AnswerCommand)
def cancel(
    number: Number,
    federation: Federation,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Cancel a round; the current model version stays."""
    cancelled = connect(url, api_key).ask(operations.CANCEL_ROUND, federation, number)
    print_answer(cancelled, output) if output.is_data else print_line(f"round {number} is cancelled")


def follow_rounds(server: ControlPlaneClient, federation: str, numbers: Sequence[int], *, output: OutputFormat) -> None:
    """Show rounds until the last is over. Raises ControlPlaneError if one does not complete."""
    from fedafd.cli.round_view import RoundView

    view, waiting = RoundView(console_for(stderr=output.is_data), numbers), list(numbers)
    try:
        with view.shown():
            for message in server.follow(federation, {"cursor": "end", "progress": "true"}):
                if isinstance(message, RoundProgress):
                    if message.round["number"] in waiting:
                        view.update(message.round)
                elif isinstance(message, RoundWaits):
                    if message.finding["round"] in waiting:
                        view.waits(message.finding)
                elif isinstance(message, Connected) or message.event["kind"] == "round.state_changed":
                    while waiting and (over := _over(server, federation, waiting[0], output=output)):
                        waiting.pop(0)
                        view.finished(over)
                if not waiting:
                    return
    except KeyboardInterrupt:
        print_line("not watching any more; the rounds go on (`fedafd round watch`)", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _over(server: ControlPlaneClient, federation: str, number: int, *, output: OutputFormat) -> RoundDetails | None:
    """The round if it completed, None while it is open. Raises ControlPlaneError if it ended otherwise."""
    details = server.ask(operations.SHOW_ROUND, federation, number)
    if details["state"] not in _OVER:
        return None
    if output.is_data:
        print_answer(details, output)
    if details["state"] != "completed":
        missing = missing_words(details)
        words = f"round {number} {details['state']}: {details['reason']}" + (f"; {missing}" if missing else "")
        raise ControlPlaneError(plain_text(words))
    return details


def _rsum(round_: Round) -> str | None:
    value = (round_["metrics"] or {}).get("rsum")
    return f"{value:.1f}" if value is not None else None


def _counts(part: Participation) -> str | None:
    """`image 12% agreeing 0.31, text left out`: its mean weight in each modality's ensemble, and its agreement."""
    words = []
    for modality, contribution in (part.get("contributions") or {}).items():
        weight = "left out" if contribution["left_out"] else f"{contribution['weight']:.0%}"
        agreement = contribution["agreement"]
        words.append(f"{modality} {weight}" + ("" if agreement is None else f" agreeing {agreement:.2f}"))
    return ", ".join(words) or None


def _why(part: Participation | Stage) -> str | None:
    at_work = part["state"] in _AT_WORK
    return part["reason"] or (part["activity"] if at_work else None)
