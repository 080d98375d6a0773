"""`fedafd client`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Federation, Url, connect
from fedafd.cli.remote.output import print_line, print_table, short_time
from fedafd.client import operations
from fedafd.client.answers import Client, ForgottenData
from fedafd.domain.counted import byte_size
from fedafd.domain.headline import gain_words, main_figure
from fedafd.domain.kinds import ParticipantKind

__all__ = ["client_app"]

client_app = typer.Typer(help="Invite, list, look at, exclude, revoke and forget clients.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The client's name.")]


@client_app.command("invite", cls=AnswerCommand)
def invite(
    name: Name,
    federation: Federation,
    kind: Annotated[
        ParticipantKind | None, typer.Option(help="What its private data is made of; region: clients of its own.")
    ] = None,
    max_clients: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Of a region: how many clients it may stand for.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="A client that exists: a new token; its old credential is void at once.")
    ] = False,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Invite a client; prints its one-time enrolment token, which is never shown again."""
    if again == (kind is not None):
        raise typer.BadParameter("give --kind for a new client, or --again for one that exists")
    server = connect(url, api_key)
    if again:
        invitation = server.ask(operations.INVITE_AGAIN, federation, name, json={"max_clients": max_clients})
    else:
        wanted = {"name": name, "kind": str(kind), "max_clients": max_clients}
        invitation = server.ask(operations.INVITE_CLIENT, federation, json=wanted)
    if output.is_data:
        print_answer(invitation, output)
        return
    there = (
        "In the region: fedafd region run"
        if invitation["kind"] == ParticipantKind.REGION
        else "At the site: fedafd agent init, then fedafd agent run"
    )
    until = short_time(invitation["token_expires_at"])
    invited = f"{name} is invited as {invitation['kind']} client; its token is good once, until {until}"
    print_line(f"{invited}. {there} --token <token>", err=True)
    print_line(invitation["enrolment_token"])


@client_app.command("list", cls=AnswerCommand)
def list_all(
    federation: Federation, api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE
) -> None:
    """List clients and whether their agents are there."""
    clients = connect(url, api_key).items(operations.LIST_CLIENTS, federation)
    if output.is_data:
        print_answer(clients, output)
        return
    print_table(
        ["NAME", "KIND", "STATE", "ONLINE", "LAST SEEN", "ACTIVITY", "VERSION"], [_row(c) for c in clients], _NONE
    )


@client_app.command("show", cls=AnswerCommand)
def show(
    name: Name,
    federation: Federation,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show one client."""
    from fedafd.cli.remote.output import print_fields

    client = connect(url, api_key).ask(operations.SHOW_CLIENT, federation, name)
    if output.is_data:
        print_answer(client, output)
        return
    print_fields(
        {key: short_time(str(value)) if value and key.endswith("_at") else value for key, value in client.items()}
    )


@client_app.command("history", cls=AnswerCommand)
def history(
    name: Name,
    federation: Federation,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """What a client did in each round, the newest first, and what its model gained."""
    parts = connect(url, api_key).items(operations.LIST_PARTICIPATIONS, federation, name)
    if output.is_data:
        print_answer(parts, output)
        return
    rows = [
        (
            part["round"],
            part["state"],
            main_figure(part["metrics"] or {}),
            gain_words(part["metrics"] or {}),
            byte_size(part["bytes_up"]),
            byte_size(part["bytes_down"]),
            short_time(part["settled_at"]),
            part["reason"],
        )
        for part in parts
    ]
    columns = ["ROUND", "STATE", "ITS MODEL", "OVER", "UP", "DOWN", "SETTLED", "REASON"]
    print_table(columns, rows, f"{name} has taken part in no round yet")


@client_app.command("revoke", cls=AnswerCommand)
def revoke(
    name: Name,
    federation: Federation,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Revoke a client: its credential and token are refused from now on."""
    client = connect(url, api_key).ask(operations.REVOKE_CLIENT, federation, name)
    print_answer(client, output) if output.is_data else print_line(f"client {name} is revoked")


@client_app.command("forget", cls=AnswerCommand)
def forget(
    name: Name,
    federation: Federation,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is done.")] = True,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Delete all that a client sent: representations, weights, personalized models, metrics. For admins.

    It waits for the running round that has the client in it, may be repeated, and leaves a receipt in the audit log.
    """
    if not yes:
        typer.confirm(f"Delete all that client {name} sent? Nobody can undo that.", abort=True, err=True)
    control_plane = connect(url, api_key)
    client = control_plane.ask(operations.FORGET_CLIENT, federation, name)
    last_words = ""
    while wait and client["requested_at"] is not None:
        running = client["waits_for_round"]
        what = "an aggregator has done it" if running is None else f"round {running} is over or cancelled"
        if what != last_words:
            last_words = what
            print_line(f"waiting until {what}; it will be done if you end this, too", err=True)
        time.sleep(_LOOK_SECONDS)
        client = control_plane.ask(operations.CLIENT_DATA, federation, name)
    if output.is_data:
        print_answer(client, output)
    elif client["requested_at"] is not None:
        print_line(f"what client {name} sent will be deleted")
    else:
        receipt = client["receipt"]
        print_line(f"client {name} is forgotten" + ("" if receipt is None else f": {_receipt(receipt)}"))


_LOOK_SECONDS = 1.0


@client_app.command("exclude", cls=AnswerCommand)
def exclude(
    name: Name,
    federation: Federation,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the client and in the audit log.")],
    from_round: Annotated[
        int | None, typer.Option(min=1, help="First round without it; default: the next one that invites.")
    ] = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Leave a client out from a round on; it stays enrolled. `readmit` takes it back."""
    wanted = {"reason": reason, "from_round": from_round}
    client = connect(url, api_key).ask(operations.EXCLUDE_CLIENT, federation, name, json=wanted)
    words = f"client {name} is left out from round {client['excluded_from_round']} on"
    print_answer(client, output) if output.is_data else print_line(words)


@client_app.command("readmit", cls=AnswerCommand)
def readmit(
    name: Name,
    federation: Federation,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Invite a client that was excluded again to the rounds to come."""
    client = connect(url, api_key).ask(operations.READMIT_CLIENT, federation, name)
    print_answer(client, output) if output.is_data else print_line(f"client {name} is invited to rounds again")


_NONE = "no client yet; `fedafd client invite NAME --kind image`"


def _receipt(receipt: ForgottenData) -> str:
    return (
        f"{receipt['representations']} representations, {receipt['weights']} weights, {receipt['folds']} folds,"
        f" {receipt['personalized_models']} personalized models,"
        f" {receipt['rounds_with_metrics']} rounds with metrics; {receipt['objects']} objects,"
        f" {byte_size(receipt['size_bytes'])}, hashes {receipt['sha256_of_all'][:16]}"
    )


def _row(client: Client) -> tuple[object, ...]:
    seen = short_time(client["last_seen_at"])
    excluded = client.get("excluded_from_round")
    state = client["state"] if excluded is None else f"{client['state']}, excluded from round {excluded} on"
    return (client["name"], client["kind"], state, client["online"], seen, client["activity"], client["agent_version"])
