"""`fedafd key`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Url, connect
from fedafd.cli.remote.output import print_line, print_table, short_time
from fedafd.client import answers, operations
from fedafd.domain.kinds import Role

__all__ = ["key_app"]

key_app = typer.Typer(help="Create, list, rotate and revoke API keys; needs an admin's key.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The key's name.")]
Federations = Annotated[
    list[str] | None,
    typer.Option("--federation", "-F", help="One that the key opens; may be given again. Without it: all."),
]
Days = Annotated[int | None, typer.Option(min=1, help="Days until it expires; without it never.")]


@key_app.command("create", cls=AnswerCommand)
def create(
    name: Name,
    role: Annotated[Role, typer.Option(help="viewer looks, operator runs federations, admin does everything.")],
    federation: Federations = None,
    days: Days = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Create an API key; prints its secret, which is never shown again."""
    body = {"name": name, "role": role.value, "expires_in_days": days, "federations": federation or None}
    created = connect(url, api_key).ask(operations.CREATE_KEY, json=body)
    if output.is_data:
        print_answer(created, output)
        return
    _say_once(created)
    print_line(created["secret"])


@key_app.command("list", cls=AnswerCommand)
def list_all(api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE) -> None:
    """List API keys."""
    keys = connect(url, api_key).items(operations.LIST_KEYS)
    if output.is_data:
        print_answer(keys, output)
        return
    heads = ["NAME", "ROLE", "FEDERATIONS", "STATE", "LAST USED", "EXPIRES", "CREATED BY", "OLD SECRET"]
    print_table(heads, [_row(key) for key in keys], "none")


@key_app.command("rotate", cls=AnswerCommand)
def rotate(
    name: Name,
    days: Days = None,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=720, help="Hours for which the old secret is good, too.")
    ] = 0.0,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Give an API key a new secret, and print it; the old one is refused at once, or after an overlap."""
    body = {"expires_in_days": days, "overlap_hours": overlap_hours}
    rotated = connect(url, api_key).ask(operations.ROTATE_KEY, name, json=body)
    if output.is_data:
        print_answer(rotated, output)
        return
    _say_once(rotated)
    print_line(rotated["secret"])


@key_app.command("revoke", cls=AnswerCommand)
def revoke(name: Name, api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE) -> None:
    """Revoke an API key: it is refused from now on."""
    revoked = connect(url, api_key).ask(operations.REVOKE_KEY, name)
    print_answer(revoked, output) if output.is_data else print_line(f"API key {name} is revoked")


def _say_once(created: answers.CreatedApiKey) -> None:
    until = f"until {short_time(created['expires_at'])}" if created["expires_at"] else "until it is revoked"
    where = "" if created["federations"] is None else f" in {_federations(created)}"
    print_line(
        f"{created['name']} may act as {created['role']}{where} {until}; keep the key, it is shown once", err=True
    )
    if created["previous_secret_until"]:
        print_line(f"the old key is good until {short_time(created['previous_secret_until'])}", err=True)


def _row(key: answers.ApiKey) -> tuple[object, ...]:
    state = "active" if key["active"] else "revoked" if key["revoked_at"] else "expired"
    times = short_time(key["last_used_at"]), short_time(key["expires_at"])
    used = short_time(key["previous_secret_used_at"]) if key["previous_secret_used_at"] else "never"
    old = (
        f"good until {short_time(key['previous_secret_until'])}, used {used}" if key["previous_secret_until"] else None
    )
    return (key["name"], key["role"], _federations(key), state, *times, key["created_by"], old)


def _federations(key: answers.ApiKey) -> str:
    return "all" if key["federations"] is None else ", ".join(key["federations"]) or "none any more"
