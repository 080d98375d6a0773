"""`fedafd events`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedafd.cli.output_format import Output, OutputFormat, print_entry
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Url, connect
from fedafd.cli.remote.output import print_line, short_time
from fedafd.client.answers import Event
from fedafd.client.control_plane import AuditEntry, ControlPlaneClient

__all__ = ["events"]


def events(
    federation: Annotated[
        str | None,
        typer.Option("--federation", "-F", envvar="FEDAFD_FEDERATION", help="The federation; without it all (admins)."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with each event as it happens, until Ctrl-C.")
    ] = False,
    last: Annotated[int, typer.Option(min=0, help="The most past events to print, the newest; 0 for all.")] = 0,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print the audit log: what happened, when, to what, by whom and from where. As JSON one object per line, as
    YAML one document.
    """
    server, federation = connect(url, api_key), federation or None
    past, cursor = _past(server, federation)
    for event in past[-last:]:
        _print(event, output=output)
    if not follow:
        return
    try:
        for message in server.follow(federation, {"cursor": cursor} if cursor else {}):
            if isinstance(message, AuditEntry):
                _print(message.event, output=output)
    except KeyboardInterrupt:
        return


def _past(server: ControlPlaneClient, federation: str | None) -> tuple[list[Event], str | None]:
    """The events so far, and the cursor after the last."""
    gathered: list[Event] = []
    cursor: str | None = None
    for page in server.event_pages(federation):
        gathered += page["items"]
        cursor = page["end_cursor"]
    return gathered, cursor


def _print(event: Event, *, output: OutputFormat) -> None:
    if output.is_data:
        print_entry(event, output)
        return
    data = "  ".join(f"{key}={_words(value)}" for key, value in event["data"].items() if value not in (None, []))
    where = "" if event["federation"] is None else f"  {event['federation']}"
    address = f" from {event['address']}" if event.get("address") else ""
    print_line(f"{short_time(event['at'])}{where}  {event['kind']}  by {event['actor']}{address}  {data}")


def _words(value: object) -> str:
    """Of a list of objects, such as the clients that are missing in a round, the values alone."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return "; ".join(" ".join(str(part) for part in item.values() if part is not None) for item in value)
    return str(value)
