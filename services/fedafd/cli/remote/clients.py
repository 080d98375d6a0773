"""`fedafd client`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, AsJson, Federation, Url, connect
from fedafd.cli.remote.output import print_json, print_table, short_time
from fedafd.domain.kinds import ParticipantKind

__all__ = ["client_app"]

client_app = typer.Typer(help="Invite, list and revoke clients.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The client's name.")]


@client_app.command("invite")
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
    as_json: AsJson = False,
) -> None:
    """Invite a client; prints its one-time enrolment token, which is never shown again."""
    base = f"/federations/{federation}/clients"
    if again == (kind is not None):
        raise typer.BadParameter("give --kind for a new client, or --again for one that exists")
    if again:
        made = connect(url, api_key).ask("POST", f"{base}/{name}/invitations", json={"max_clients": max_clients})
    else:
        wanted = {"name": name, "kind": str(kind), "max_clients": max_clients}
        made = connect(url, api_key).ask("POST", base, json=wanted)
    if as_json:
        print_json(made)
        return
    typer.echo(f"{name} is invited as {made['kind']} client; its token is good once, until", err=True, nl=False)
    there = (
        "In the region: fedafd region run"
        if made["kind"] == ParticipantKind.REGION
        else "At the site: fedafd agent run"
    )
    typer.echo(f" {short_time(made['token_expires_at'])}. {there} --token <token>", err=True)
    typer.echo(made["enrolment_token"])


@client_app.command("list")
def list_all(federation: Federation, api_key: ApiKey = "", url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List clients and whether their agents are there."""
    found = connect(url, api_key).items(f"/federations/{federation}/clients")
    if as_json:
        print_json(found)
        return
    print_table(
        ["NAME", "KIND", "STATE", "ONLINE", "LAST SEEN", "ACTIVITY", "VERSION"], [_row(c) for c in found], _NONE
    )


@client_app.command("show")
def show(
    name: Name, federation: Federation, api_key: ApiKey = "", url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Show one client."""
    from fedafd.cli.remote.output import print_fields

    found = connect(url, api_key).ask("GET", f"/federations/{federation}/clients/{name}")
    if as_json:
        print_json(found)
        return
    print_fields({key: short_time(value) if key.endswith("_at") else value for key, value in found.items()})


@client_app.command("revoke")
def revoke(
    name: Name, federation: Federation, api_key: ApiKey = "", url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Revoke a client: its credential and token are refused from now on."""
    found = connect(url, api_key).ask("DELETE", f"/federations/{federation}/clients/{name}")
    print_json(found) if as_json else typer.echo(f"client {name} is revoked")


_NONE = "no client yet; `fedafd client invite NAME --kind image`"


def _row(client: dict[str, Any]) -> tuple[object, ...]:
    seen = short_time(client["last_seen_at"])
    keys = ("name", "kind", "state", "online")
    return (*(client[key] for key in keys), seen, client["activity"], client["agent_version"])
