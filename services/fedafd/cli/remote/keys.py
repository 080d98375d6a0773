"""`fedafd key`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, AsJson, Url, connect
from fedafd.cli.remote.output import print_json, print_table, short_time
from fedafd.domain.kinds import Role

__all__ = ["key_app"]

key_app = typer.Typer(help="Create, list and revoke API keys; needs an admin's key.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The key's name.")]


@key_app.command("create")
def create(
    name: Name,
    role: Annotated[Role, typer.Option(help="viewer looks, operator runs federations, admin does everything.")],
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; without it never.")] = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Create an API key; prints its secret, which is never shown again."""
    body = {"name": name, "role": role.value, "expires_in_days": days}
    made = connect(url, api_key).ask("POST", "/api-keys", json=body)
    if as_json:
        print_json(made)
        return
    until = f"until {short_time(made['expires_at'])}" if made["expires_at"] else "until it is revoked"
    typer.echo(f"{name} may act as {role.value} {until}; keep the key, it is shown once", err=True)
    typer.echo(made["secret"])


@key_app.command("list")
def list_all(api_key: ApiKey = "", url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List API keys."""
    found = connect(url, api_key).items("/api-keys")
    if as_json:
        print_json(found)
        return
    print_table(["NAME", "ROLE", "STATE", "LAST USED", "EXPIRES", "CREATED BY"], [_row(each) for each in found], "none")


@key_app.command("revoke")
def revoke(name: Name, api_key: ApiKey = "", url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Revoke an API key: it is refused from now on."""
    found = connect(url, api_key).ask("DELETE", f"/api-keys/{name}")
    print_json(found) if as_json else typer.echo(f"API key {name} is revoked")


def _row(key: dict[str, Any]) -> tuple[object, ...]:
    state = "active" if key["active"] else "revoked" if key["revoked_at"] else "expired"
    times = short_time(key["last_used_at"]), short_time(key["expires_at"])
    return (key["name"], key["role"], state, *times, key["created_by"])
