"""`fedafd federation` and `fedafd public-set`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Federation, Url, connect
from fedafd.cli.remote.output import print_fields, print_line, print_table, short_time
from fedafd.client import operations
from fedafd.client.answers import PublicSet
from fedafd.domain.config.differences import differences, flat
from fedafd.domain.errors import ConfigurationError

__all__ = ["federation_app", "public_set_app"]

federation_app = typer.Typer(
    help="Create, list, show, compare, configure and delete federations.", no_args_is_help=True
)
public_set_app = typer.Typer(help="Push and show the public set.", no_args_is_help=True)

_DIFFERS = 1

File = Annotated[Path, typer.Option("--file", "-f", help="federation.yaml")]


@federation_app.command("create", cls=AnswerCommand)
def create(file: File, api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE) -> None:
    """Create a federation from its federation.yaml."""
    created = connect(url, api_key).ask(operations.CREATE_FEDERATION, json=_read(file))
    print_answer(created, output) if output.is_data else print_line(f"federation {created['name']} created")


@federation_app.command("configure", cls=AnswerCommand)
def configure(file: File, api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE) -> None:
    """Replace a federation's configuration with this federation.yaml; not while a round is open."""
    config = _read(file)
    configured = connect(url, api_key).ask(operations.CONFIGURE_FEDERATION, config["name"], json=config)
    if output.is_data:
        print_answer(configured, output)
    else:
        print_line(f"federation {configured['name']}: configuration is now version {configured['config_version']}")


@federation_app.command("list", cls=AnswerCommand)
def list_all(api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE) -> None:
    """List federations."""
    federations = connect(url, api_key).items(operations.LIST_FEDERATIONS)
    if output.is_data:
        print_answer(federations, output)
        return
    rows = [
        (item["name"], item["current_version"], (item["public_set_sha256"] or "-")[:12], short_time(item["created_at"]))
        for item in federations
    ]
    print_table(["NAME", "MODEL", "PUBLIC SET", "CREATED"], rows, "no federation yet; `fedafd federation create`")


@federation_app.command("show", cls=AnswerCommand)
def show(
    federation: Annotated[str, typer.Argument(envvar="FEDAFD_FEDERATION", help="Its name.")],
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show a federation with its whole configuration."""
    details = connect(url, api_key).ask(operations.SHOW_FEDERATION, federation)
    if output.is_data:
        print_answer(details, output)
        return
    facts = {key: value for key, value in details.items() if key != "config"}
    print_fields(facts | {"created_at": short_time(details["created_at"])} | dict(flat(details["config"])))


@federation_app.command("export")
def export(
    federation: Annotated[str, typer.Argument(envvar="FEDAFD_FEDERATION", help="Its name.")],
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
) -> None:
    """Print a federation's whole configuration as a federation.yaml, which `configure -f` takes."""
    details = connect(url, api_key).ask(operations.SHOW_FEDERATION, federation)
    print_answer(details["config"], OutputFormat.YAML)


@federation_app.command("diff", cls=AnswerCommand)
def diff(file: File, api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE) -> None:
    """What `configure` with this federation.yaml would change; exits with 1 if it would change something."""
    from fedafd.domain.config import read_federation_config

    wanted = read_federation_config(file)
    present = connect(url, api_key).ask(operations.SHOW_FEDERATION, wanted.name)["config"]
    changes = [difference._asdict() for difference in differences(present, wanted.model_dump(mode="json"))]
    if output.is_data:
        print_answer(changes, output)
    else:
        rows = [(change["key"], change["now"], change["then"]) for change in changes]
        print_table(["KEY", "NOW", "WITH THE FILE"], rows, f"{file} says what holds for {wanted.name}")
    if changes:
        raise typer.Exit(_DIFFERS)


@federation_app.command("delete", cls=AnswerCommand)
def delete(
    federation: Annotated[str, typer.Argument(help="Its name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Delete a federation with its sites, rounds and models for ever; not while a round is open. Needs an admin's key.

    The audit log and the public set stay."""
    server = connect(url, api_key)
    going = server.ask(operations.DELETE_FEDERATION, federation, params={"dry_run": "true"})
    if not yes:
        print_line(
            f"This deletes federation {federation} for ever: {going['clients']} sites, {going['rounds']} rounds,"
            f" {going['versions']} versions of the global model, {going['personalized_models']} personalized models"
            f" ({going['size_bytes'] / 1e6:.1f} MB). `fedafd federation export` and `fedafd model pull` keep what you"
            " need.",
            err=True,
        )
        typer.echo("Its name, to go on: ", err=True, nl=False)  # typer's own prompt writes to standard output, too
        if sys.stdin.readline().strip() != federation:
            raise ConfigurationError(f"federation {federation}: is not deleted")
    deleted = server.ask(operations.DELETE_FEDERATION, federation)
    print_answer(deleted, output) if output.is_data else print_line(f"federation {federation} deleted")


@public_set_app.command("push", cls=AnswerCommand)
def push(
    federation: Federation,
    adapter: Annotated[str, typer.Option(help="shapes, flickr, coco or parquet.")],
    api_key: ApiKey = "",
    path: Annotated[Path | None, typer.Option(help="The data's folder.")] = None,
    options: Annotated[str, typer.Option(help="The adapter's options, as JSON.")] = "{}",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Write the public set as Parquet shards and push it."""
    from fedafd.datasets import load_public_data, write_public_set

    server = connect(url, api_key)
    server.ask(operations.SHOW_FEDERATION, federation)  # before the work of reading the data
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_public_set(load_public_data(adapter, path, _options(options)), Path(folder))
        for number, shard in enumerate(manifest.shards, 1):
            if not output.is_data:
                print_line(f"shard {number} of {len(manifest.shards)}: {shard.name}", err=True)
            server.send(operations.PUSH_SHARD, federation, shard.sha256, content=Path(folder) / shard.name)
        pushed = server.send(operations.PUSH_PUBLIC_SET, federation, content=manifest.to_bytes())
    print_answer(pushed, output) if output.is_data else _print_public_set(federation, pushed)


@public_set_app.command("show", cls=AnswerCommand)
def show_public_set(
    federation: Federation, api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE
) -> None:
    """Show the public set's hash and sizes."""
    public_set = connect(url, api_key).ask(operations.SHOW_PUBLIC_SET, federation)
    print_answer(public_set, output) if output.is_data else _print_public_set(federation, public_set)


def _print_public_set(federation: str, public_set: PublicSet) -> None:
    samples = ", ".join(f"{count} {split}" for split, count in public_set["num_samples"].items())
    print_line(f"public set of {federation}: {samples}; {public_set['sha256']}")


def _read(file: Path) -> dict[str, Any]:
    from fedafd.domain.config import read_federation_config

    config: dict[str, Any] = read_federation_config(file).model_dump(mode="json", exclude_unset=True)
    return config


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"--options: is not JSON: {error}") from None
    if not isinstance(options, dict):
        raise ConfigurationError('--options: must be a JSON object, such as {"num_train": 100}')
    return options
