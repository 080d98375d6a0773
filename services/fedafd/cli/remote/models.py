"""`fedafd model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, AsJson, Federation, Url, connect
from fedafd.cli.remote.output import print_json, print_table, short_time
from fedafd.client.downloads import pull_model

__all__ = ["model_app"]

model_app = typer.Typer(help="List, pull, promote and roll back model versions.", no_args_is_help=True)

OfClient = Annotated[str | None, typer.Option("--client", help="This client's personalized models instead.")]


@model_app.command("list")
def list_all(
    federation: Federation,
    client: OfClient = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List model versions: the current one is where the next round starts, those with state can be gone back to."""
    found = connect(url, api_key).items(f"{_owner(federation, client)}/models")
    if as_json:
        print_json(found)
        return
    rows = [
        (
            m["version"],
            m.get("parent_version"),
            m.get("current"),
            _kept(m),
            _metrics(m["metrics"]),
            short_time(m["created_at"]),
        )
        for m in found
    ]
    print_table(["VERSION", "FROM", "CURRENT", "KEPT", "METRICS", "CREATED"], rows, "no model version yet")


@model_app.command("pull")
def pull(
    target: Annotated[Path, typer.Argument(help="Folder to write; must not hold other files.")],
    federation: Federation,
    version: Annotated[str, typer.Option(help="A number or `current`.")] = "current",
    client: OfClient = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Fetch straight from the object store, where it gives tickets.")
    ] = False,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Pull a model version as a folder, whole or not at all."""
    found = pull_model(connect(url, api_key), _owner(federation, client), version, target, direct=direct)
    print_json({**found, "folder": str(target)}) if as_json else typer.echo(str(target))


@model_app.command("promote")
def promote(
    version: Annotated[int, typer.Argument(min=1)],
    federation: Federation,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a version the current one, also an older one."""
    made = connect(url, api_key).ask("POST", f"{_owner(federation, None)}/models/{version}/promote")
    print_json(made) if as_json else typer.echo(f"version {made['version']} is the current one")


@model_app.command("rollback")
def rollback(federation: Federation, api_key: ApiKey = "", url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Go back to the version that the current one was trained from."""
    made = connect(url, api_key).ask("POST", f"{_owner(federation, None)}/models/rollback")
    print_json(made) if as_json else typer.echo(f"version {made['version']} is the current one")


def _owner(federation: str, client: str | None) -> str:
    return f"/federations/{federation}" + (f"/clients/{client}" if client else "")


def _kept(version: dict[str, Any]) -> str:
    """What retention has left of a version."""
    parts = {"state": version.get("has_state", False), "model": version["has_files"]}
    return ", ".join(name for name, is_there in parts.items() if is_there) or "metrics"


def _metrics(metrics: dict[str, float]) -> str:
    shown = {name: metrics[name] for name in ("rsum", "i2t_r1", "t2i_r1") if name in metrics} or metrics
    return "  ".join(f"{name} {value:.1f}" for name, value in sorted(shown.items(), reverse=True)[:4])
