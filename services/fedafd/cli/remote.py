"""Commands that talk to a control plane: FEDAFD_URL and FEDAFD_API_KEY say which, and as whom."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from fedafd.domain.errors import FedafdError

__all__ = ["RemoteError", "add_remote_commands"]

Url = Annotated[str, typer.Option("--url", envvar="FEDAFD_URL", help="The control plane.")]
Key = Annotated[str, typer.Option("--api-key", envvar="FEDAFD_API_KEY", help="Your API key.")]
Federation = Annotated[str, typer.Option("--federation", "-F", envvar="FEDAFD_FEDERATION", help="The federation.")]
_URL = "http://127.0.0.1:8080"
_OVER = frozenset({"completed", "failed", "cancelled"})


class RemoteError(FedafdError):
    """The control plane refused, or cannot be reached."""

    code = "remote"


def add_remote_commands(app: typer.Typer) -> None:
    """Attach the groups federation, public-set, client, round and model."""
    for name, group in (
        ("federation", federation_app),
        ("public-set", public_set_app),
        ("client", client_app),
        ("round", round_app),
        ("model", model_app),
    ):
        app.add_typer(group, name=name)


federation_app = typer.Typer(help="Create and list federations.", no_args_is_help=True)
public_set_app = typer.Typer(help="Push the public set.", no_args_is_help=True)
client_app = typer.Typer(help="Invite, list and revoke clients.", no_args_is_help=True)
round_app = typer.Typer(help="Start, watch and cancel rounds.", no_args_is_help=True)
model_app = typer.Typer(help="List, pull and promote model versions.", no_args_is_help=True)


@federation_app.command("create")
def federation_create(
    file: Annotated[Path, typer.Option("--file", "-f", help="federation.yaml")], api_key: Key, url: Url = _URL
) -> None:
    """Create a federation from its federation.yaml."""
    from fedafd.domain.config import read_federation_config

    config = read_federation_config(file)
    _show(_ask("POST", url, api_key, "/federations", json=config.model_dump(mode="json", exclude_unset=True)))


@federation_app.command("list")
def federation_list(api_key: Key, url: Url = _URL) -> None:
    """List federations."""
    _show(_ask("GET", url, api_key, "/federations"))


@public_set_app.command("push")
def public_set_push(
    federation: Federation,
    api_key: Key,
    adapter: Annotated[str, typer.Option(help="shapes, flickr, coco or parquet.")],
    path: Annotated[Path | None, typer.Option(help="The data's folder.")] = None,
    options: Annotated[str, typer.Option(help="The adapter's options, as JSON.")] = "{}",
    url: Url = _URL,
) -> None:
    """Write the public set as Parquet shards and push it."""
    import tempfile

    from fedafd.datasets import load_public_data, write_public_set

    with tempfile.TemporaryDirectory() as folder:
        manifest = write_public_set(load_public_data(adapter, path, json.loads(options)), Path(folder))
        base = f"/federations/{federation}/public-set"
        for shard in manifest.shards:
            _ask("PUT", url, api_key, f"{base}/shards/{shard.sha256}", content=(Path(folder) / shard.name).read_bytes())
        _show(_ask("PUT", url, api_key, base, content=manifest.to_bytes()))


@client_app.command("invite")
def client_invite(
    name: str,
    kind: Annotated[str, typer.Option(help="image, text or pair.")],
    federation: Federation,
    api_key: Key,
    url: Url = _URL,
) -> None:
    """Invite a client; prints its one-time enrolment token."""
    _show(_ask("POST", url, api_key, f"/federations/{federation}/clients", json={"name": name, "kind": kind}))


@client_app.command("list")
def client_list(federation: Federation, api_key: Key, url: Url = _URL) -> None:
    """List clients."""
    _show(_ask("GET", url, api_key, f"/federations/{federation}/clients"))


@client_app.command("revoke")
def client_revoke(name: str, federation: Federation, api_key: Key, url: Url = _URL) -> None:
    """Revoke a client."""
    _show(_ask("DELETE", url, api_key, f"/federations/{federation}/clients/{name}"))


@round_app.command("start")
def round_start(
    federation: Federation,
    api_key: Key,
    rounds: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    watch: Annotated[bool, typer.Option(help="Follow them until the last is over.")] = False,
    url: Url = _URL,
) -> None:
    """Queue rounds; exits with 1 if a watched one does not complete."""
    base = f"/federations/{federation}/rounds"
    queued = _ask("POST", url, api_key, base, json={"count": rounds})["items"]
    if not watch:
        _show(queued)
        return
    from rich.console import Console

    from fedafd.cli.demo_view import RoundView

    view = RoundView(Console(), rounds)
    with view.shown():
        for each in queued:
            started = time.monotonic()
            while (answer := _ask("GET", url, api_key, f"{base}/{each['number']}"))["state"] not in _OVER:
                view.update(answer)
                time.sleep(0.5)
            if answer["state"] != "completed":
                raise RemoteError(f"round {each['number']} {answer['state']}: {answer['reason']}")
            view.finished(answer, time.monotonic() - started)


@round_app.command("show")
def round_show(number: int, federation: Federation, api_key: Key, url: Url = _URL) -> None:
    """Show one round."""
    _show(_ask("GET", url, api_key, f"/federations/{federation}/rounds/{number}"))


@round_app.command("cancel")
def round_cancel(number: int, federation: Federation, api_key: Key, url: Url = _URL) -> None:
    """Cancel a round."""
    _show(_ask("POST", url, api_key, f"/federations/{federation}/rounds/{number}/cancel"))


@model_app.command("list")
def model_list(federation: Federation, api_key: Key, url: Url = _URL) -> None:
    """List global model versions."""
    _show(_ask("GET", url, api_key, f"/federations/{federation}/models"))


@model_app.command("pull")
def model_pull(
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    federation: Federation,
    api_key: Key,
    version: Annotated[str, typer.Option(help="A number or `current`.")] = "current",
    client: Annotated[str | None, typer.Option(help="Pull this client's personalized model instead.")] = None,
    url: Url = _URL,
) -> None:
    """Pull a model version as a folder."""
    owner = f"/federations/{federation}" + (f"/clients/{client}" if client else "")
    content = _response("GET", url, api_key, f"{owner}/models/{version}/archive").content
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(target, filter="data")
    typer.echo(str(target))


@model_app.command("promote")
def model_promote(version: int, federation: Federation, api_key: Key, url: Url = _URL) -> None:
    """Make a version the current one, also an older one."""
    _show(_ask("POST", url, api_key, f"/federations/{federation}/models/{version}/promote"))


def _show(answer: Any) -> None:
    typer.echo(json.dumps(answer, indent=2))


def _ask(method: str, url: str, api_key: str, path: str, **options: Any) -> Any:
    response = _response(method, url, api_key, path, **options)
    return response.json() if response.content else None


def _response(method: str, url: str, api_key: str, path: str, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {api_key}"}
    try:
        response = httpx.request(method, f"{url}/v1{path}", headers=headers, timeout=600, **options)
    except httpx.HTTPError as error:
        raise RemoteError(
            f"{url}: cannot be reached ({error}); is the control plane up, is FEDAFD_URL right?"
        ) from None
    if response.is_success:
        return response
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError):
        detail = response.text[:300]
    raise RemoteError(f"{response.status_code}: {detail}")
