"""`fedafd model`."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from fedafd.cli.archives import extract_files
from fedafd.cli.remote.output import print_json, print_table, short_time
from fedafd.cli.remote.server import DEFAULT_URL, ApiKey, AsJson, Federation, Server, Url, unreachable
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.process_errors import ControlPlaneError

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
    """List model versions; the one marked current is where the next round starts."""
    found = Server(url, api_key).items(f"{_owner(federation, client)}/models")
    if as_json:
        print_json(found)
        return
    rows = [
        (m["version"], m.get("parent_version"), m.get("current"), _metrics(m["metrics"]), short_time(m["created_at"]))
        for m in found
    ]
    print_table(["VERSION", "FROM", "CURRENT", "METRICS", "CREATED"], rows, "no model version yet")


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
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target}: is there and not empty; choose another folder")
    server, path = Server(url, api_key), f"{_owner(federation, client)}/models/{version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pull-") as folder:
        fetched = Path(folder) / "model"
        fetched.mkdir()
        found = server.ask("GET", path)
        (_fetch_direct if direct else _fetch_archive)(server, path, fetched)
        _check(fetched, found["files"])
        if target.exists():
            target.rmdir()
        shutil.move(fetched, target)
    target.chmod(0o755)
    print_json(found | {"folder": str(target)}) if as_json else typer.echo(str(target))


@model_app.command("promote")
def promote(
    version: Annotated[int, typer.Argument(min=1)],
    federation: Federation,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a version the current one, also an older one."""
    made = Server(url, api_key).ask("POST", f"{_owner(federation, None)}/models/{version}/promote")
    print_json(made) if as_json else typer.echo(f"version {made['version']} is the current one")


@model_app.command("rollback")
def rollback(federation: Federation, api_key: ApiKey = "", url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Go back to the version that the current one was trained from."""
    made = Server(url, api_key).ask("POST", f"{_owner(federation, None)}/models/rollback")
    print_json(made) if as_json else typer.echo(f"version {made['version']} is the current one")


def _fetch_archive(server: Server, path: str, folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder.parent) as file:
        with server.download(f"{path}/archive") as response:
            for block in response.iter_bytes(1 << 20):
                file.write(block)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            extract_files(tar, folder)


def _fetch_direct(server: Server, path: str, folder: Path) -> None:
    for ticket in server.ask("POST", f"{path}/tickets")["items"]:
        target = folder / ticket["path"]
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ControlPlaneError(f"{ticket['path']}: lies outside the folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with httpx.stream("GET", ticket["url"], timeout=600) as response, target.open("wb") as file:
                response.raise_for_status()
                for block in response.iter_bytes(1 << 20):
                    file.write(block)
        except httpx.HTTPError as error:
            raise unreachable(ticket["url"].partition("?")[0], error) from None


def _check(folder: Path, files: list[dict[str, Any]]) -> None:
    for file in files:
        path = folder / file["path"]
        with path.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file["sha256"]:
                raise ControlPlaneError(f"{file['path']}: came with another content than announced; pull again")


def _owner(federation: str, client: str | None) -> str:
    return f"/federations/{federation}" + (f"/clients/{client}" if client else "")


def _metrics(metrics: dict[str, float]) -> str:
    shown = {name: metrics[name] for name in ("rsum", "i2t_r1", "t2i_r1") if name in metrics} or metrics
    return "  ".join(f"{name} {value:.1f}" for name, value in sorted(shown.items(), reverse=True)[:4])
