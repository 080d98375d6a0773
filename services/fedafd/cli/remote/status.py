"""`fedafd status`: what waits for what, since when, and what to do about it."""

from __future__ import annotations

from datetime import datetime

import typer

from fedafd.cli.output_format import Output, OutputFormat, print_answer
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Url, connect
from fedafd.client import operations
from fedafd.client.answers import Finding
from fedafd.domain.durations import duration_words
from fedafd.domain.plain_text import plain_text

__all__ = ["status"]

_MARKS = {"trouble": ("TROUBLE", "red"), "waiting": ("waiting", "yellow"), "fine": ("fine", "green")}
_TROUBLE = 1


def status(api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE) -> None:
    """Say what waits for what, since when, and what to do; exits with 1 where something is in trouble."""
    answer = connect(url, api_key).ask(operations.STATUS)
    if output.is_data:
        print_answer(answer, output)
    else:
        for finding in answer["findings"]:
            _print(finding, datetime.fromisoformat(answer["at"]))
    if answer["level"] == "trouble":
        raise typer.Exit(_TROUBLE)


def _print(finding: Finding, now: datetime) -> None:
    since, waited = finding["since"], ""
    if since:
        waited = f" (for {duration_words((now - datetime.fromisoformat(since)).total_seconds())})"
    mark, colour = _MARKS.get(finding["level"], (str(finding["level"]), ""))
    typer.secho(f"{plain_text(mark):8}", fg=colour or None, nl=False)
    typer.echo(plain_text(f"{finding['words']}{waited}"))
    if finding["remedy"]:
        typer.echo(f"        {plain_text(finding['remedy'])}")
