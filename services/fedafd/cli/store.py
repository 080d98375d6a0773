"""`fedafd store`: prepare an object store of one's own, check what it holds, remove what nothing needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.output_format import AnswerCommand
from fedafd.cli.prune import store_prune
from fedafd.cli.verify import store_verify
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.secrets import read_secret_file

__all__ = ["read_secret", "store_app"]

store_app = typer.Typer(help="Prepare, check and clean the object store.", no_args_is_help=True)


@store_app.callback()
def _store() -> None:
    """Prepare, check and clean the object store."""


store_app.command("verify", cls=AnswerCommand)(store_verify)
store_app.command("prune", cls=AnswerCommand)(store_prune)


@store_app.command("provision")
def store_provision(
    endpoint: Annotated[str, typer.Option(envvar="FEDAFD_STORE_ENDPOINT", help="host:port of the MinIO server.")],
    root_user_file: Annotated[Path, typer.Option(help="File with the administrator's access key.")],
    root_password_file: Annotated[Path, typer.Option(help="File with the administrator's secret key.")],
    key: Annotated[
        list[str],
        typer.Option(help="PROCESS=FILE: give control-plane, aggregator, distiller or queries the secret key in FILE."),
    ],
    bucket: Annotated[str, typer.Option(envvar="FEDAFD_STORE_BUCKET", help="The bucket.")] = "fedafd",
    secure: Annotated[bool, typer.Option(help="TLS to the server.")] = True,
) -> None:
    """Make the bucket, and for each process the access key fedafd-PROCESS with just its rights; safe to repeat."""
    from fedafd.storage.provision import provision

    pairs = [text.partition("=") for text in key]
    wrong = [text for text, (_, sign, file) in zip(key, pairs, strict=True) if not (sign and file)]
    if wrong:
        raise ConfigurationError(f"--key {wrong[0]}: write it as PROCESS=FILE")
    done = provision(
        endpoint=endpoint,
        bucket=bucket,
        root=(read_secret(root_user_file), read_secret(root_password_file)),
        secret_keys={process: read_secret(Path(file)) for process, _, file in pairs},
        secure=secure,
    )
    typer.echo("\n".join(done))


def read_secret(path: Path) -> str:
    """A secret from its file. Raises ConfigurationError if it cannot be read or is empty."""
    return read_secret_file(path, "file")
