"""`fedafd model`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer
from fedafd.cli.remote.options import DEFAULT_URL, ApiKey, Federation, Url, connect
from fedafd.cli.remote.output import print_fields, print_line, print_table, short_time
from fedafd.client import operations
from fedafd.client.answers import ModelVersion, ModelVersionDetails, PersonalizedModel, PersonalizedModelDetails
from fedafd.client.downloads import pull_model
from fedafd.client.searching import search_model
from fedafd.domain.counted import byte_size
from fedafd.domain.errors import DataError
from fedafd.domain.headline import gain_words, main_figure

__all__ = ["model_app"]

model_app = typer.Typer(help="List, show, pull, try, promote and roll back model versions.", no_args_is_help=True)

OfClient = Annotated[str | None, typer.Option("--client", help="This client's personalized models instead.")]


@model_app.command("list", cls=AnswerCommand)
def list_all(
    federation: Federation,
    client: OfClient = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List model versions: the current one is where the next round starts, those with state can be gone back to."""
    server = connect(url, api_key)
    if client is not None:
        own = server.items(operations.LIST_CLIENT_MODELS, federation, client)
        columns = ["VERSION", "FIGURE", "OVER", "KEPT", "MORE", "CREATED"]
        _print_list(own, [_row_of_client(model) for model in own], columns, output)
    else:
        versions = server.items(operations.LIST_MODELS, federation)
        columns = ["VERSION", "FIGURE", "FROM", "CURRENT", "KEPT", "MORE", "CREATED"]
        _print_list(versions, [_row(model) for model in versions], columns, output)


@model_app.command("show", cls=AnswerCommand)
def show(
    federation: Federation,
    version: Annotated[str, typer.Argument(help="A number or `current`.")] = "current",
    client: OfClient = None,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show one model version: what it was made from, its metrics, its files."""
    server = connect(url, api_key)
    details: ModelVersionDetails | PersonalizedModelDetails
    if client is not None:
        details = server.ask(operations.SHOW_CLIENT_MODEL, federation, client, version)
        known: dict[str, object] = {"version": details["version"]}
    else:
        details = server.ask(operations.SHOW_MODEL, federation, version)
        known = {
            "version": details["version"],
            "parent_version": details["parent_version"],
            "current": details["current"],
        }
    if output.is_data:
        print_answer(details, output)
        return
    print_fields(known | {"created_at": short_time(details["created_at"]), **_rounded(details["metrics"])})
    rows = [(file["path"], byte_size(file["size_bytes"]), file["sha256"][:16]) for file in details["files"]]
    print_table(["FILE", "SIZE", "SHA-256"], rows, "no file")


@model_app.command("pull", cls=AnswerCommand)
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
    output: Output = OutputFormat.TABLE,
) -> None:
    """Pull a model version as a folder, whole or not at all."""
    pulled = pull_model(connect(url, api_key), federation, version, target, client=client, direct=direct)
    print_answer({**pulled, "folder": str(target)}, output) if output.is_data else print_line(str(target))


@model_app.command("search", cls=AnswerCommand)
def search(
    federation: Federation,
    caption: Annotated[
        str | None, typer.Argument(help="A caption in quotes: finds pictures.", show_default=False)
    ] = None,
    image: Annotated[Path | None, typer.Option(help="An image file instead: finds captions.")] = None,
    version: Annotated[str, typer.Option(help="A number or `current`.")] = "current",
    top_k: Annotated[int, typer.Option(min=1, max=24, help="How many matches to print.")] = 6,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Try a version: the public pictures nearest to a caption, or the captions nearest to a picture.

    A query worker answers (`fedafd queries`). The first query to a version waits until that is loaded and has
    embedded the public set.
    """
    if (caption is None) == (image is None):
        raise typer.BadParameter("give either a caption or --image")
    content = None if image is None else _picture(image)
    client = connect(url, api_key)
    answer = search_model(
        client, federation, version, caption=caption, image=content, top_k=top_k, on_preparing=_HowFar()
    )
    if output.is_data:
        print_answer(answer, output)
        return
    rows = [(f"{hit['likeness']:.3f}", hit["id"], hit["split"], " / ".join(hit["captions"])) for hit in answer["hits"]]
    print_table(["LIKENESS", "PICTURE", "SPLIT", "CAPTION"], rows, "nothing found")


def _picture(path: Path) -> bytes:
    from fedafd.messaging.query_messages import MAX_PICTURE_BYTES

    content = path.read_bytes()
    if len(content) > MAX_PICTURE_BYTES:
        size_mib = len(content) / (1 << 20)
        raise DataError(
            f"{path}: has {size_mib:.1f} MiB; a picture may have {MAX_PICTURE_BYTES >> 20}: make it smaller"
        )
    return content


class _HowFar:
    """Says how far a version is, whenever that changed."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, done: int, total: int) -> None:
        words = f"preparing: {done} of {total} embeddings" if total else "preparing: the query worker loads the version"
        if words != self._said:
            print_line(words, err=True)
        self._said = words


@model_app.command("promote", cls=AnswerCommand)
def promote(
    version: Annotated[int, typer.Argument(min=1, help="Its number.")],
    federation: Federation,
    api_key: ApiKey = "",
    url: Url = DEFAULT_URL,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Make a version the current one, also an older one."""
    model = connect(url, api_key).ask(operations.PROMOTE_MODEL, federation, version)
    print_answer(model, output) if output.is_data else print_line(f"version {model['version']} is the current one")


@model_app.command("rollback", cls=AnswerCommand)
def rollback(
    federation: Federation, api_key: ApiKey = "", url: Url = DEFAULT_URL, output: Output = OutputFormat.TABLE
) -> None:
    """Go back to the version that the current one was trained from."""
    model = connect(url, api_key).ask(operations.ROLL_BACK_MODEL, federation)
    print_answer(model, output) if output.is_data else print_line(f"version {model['version']} is the current one")


def _print_list(
    models: Sequence[object], rows: Sequence[Sequence[object]], columns: Sequence[str], output: OutputFormat
) -> None:
    print_answer(models, output) if output.is_data else print_table(columns, rows, "no model version yet")


def _kept(*, has_state: bool, has_files: bool) -> str:
    """What retention has left of a version."""
    parts = {"state": has_state, "model": has_files}
    return ", ".join(name for name, is_there in parts.items() if is_there) or "metrics"


def _row(model: ModelVersion) -> tuple[object, ...]:
    """The figure that matters first, then where the version stands."""
    metrics, created = model["metrics"], short_time(model["created_at"])
    kept = _kept(has_state=model["has_state"], has_files=model["has_files"])
    figure = main_figure(metrics)
    return (model["version"], figure, model["parent_version"], model["current"], kept, _more(metrics), created)


def _row_of_client(model: PersonalizedModel) -> tuple[object, ...]:
    """The figure that matters first, then what it is over another model's."""
    metrics, created = model["metrics"], short_time(model["created_at"])
    own = {key.removeprefix("federated/"): value for key, value in metrics.items() if key.startswith("federated/")}
    kept = _kept(has_state=False, has_files=model["has_files"])
    return (model["version"], main_figure(metrics), gain_words(metrics), kept, _more(own), created)


def _more(metrics: dict[str, float]) -> str:
    """Some figures beside the first."""
    shown = [name for name in ("i2t_r1", "t2i_r1", "acc5", "own_acc1", "map") if metrics.get(name) is not None]
    return "  ".join(f"{name} {metrics[name]:.1f}" for name in shown)


def _rounded(metrics: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.2f}" for name, value in sorted(metrics.items()) if value is not None}
