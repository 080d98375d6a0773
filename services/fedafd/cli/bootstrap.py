"""`fedafd bootstrap`: bring a federation to life from files, for jobs that start with a deployment.

Every step looks first whether it was done, so that the job may run at every start and be cut off anywhere.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedafd.cli.store import read_secret
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind

if TYPE_CHECKING:
    from fedafd.cli.demo_federation import FederationClient
    from fedafd.domain.config import FederationConfig

__all__ = ["Invitation", "bootstrap", "parse_invitation"]


@dataclass(frozen=True)
class Invitation:
    """A client to invite, and the file that its one-time token goes to."""

    name: str
    kind: ClientKind
    token_file: Path


def bootstrap(
    file: Annotated[Path, typer.Option("--file", "-f", envvar="FEDAFD_BOOTSTRAP_FILE", help="federation.yaml")],
    api_key_file: Annotated[Path, typer.Option(envvar="FEDAFD_API_KEY_FILE", help="File with an operator's API key.")],
    url: Annotated[str, typer.Option(envvar="FEDAFD_URL", help="The control plane.")] = "http://127.0.0.1:8080",
    client: Annotated[
        list[str] | None, typer.Option(help="NAME:KIND:FILE: invite the client, write its one-time token to FILE.")
    ] = None,
    adapter: Annotated[
        str, typer.Option(envvar="FEDAFD_PUBLIC_ADAPTER", help="Public set: shapes, flickr, coco or parquet.")
    ] = "shapes",
    path: Annotated[Path | None, typer.Option(envvar="FEDAFD_PUBLIC_PATH", help="The public set's folder.")] = None,
    options: Annotated[
        str, typer.Option(envvar="FEDAFD_PUBLIC_OPTIONS", help="The adapter's options, as JSON.")
    ] = "{}",
) -> None:
    """Create a federation, push its public set, invite its clients: what of it is not there yet."""
    from fedafd.cli.demo_federation import FederationClient
    from fedafd.domain.config import read_federation_config

    config = read_federation_config(file)
    invitations = [parse_invitation(each) for each in client or []]
    rest = FederationClient(url, read_secret(api_key_file), config.name)
    try:
        for line in _steps(rest, config, invitations, adapter=adapter, path=path, options=_parsed(options)):
            typer.echo(line)
    finally:
        rest.close()


def parse_invitation(text: str) -> Invitation:
    """NAME:KIND:FILE. Raises ConfigurationError."""
    name, _, rest = text.partition(":")
    kind, _, file = rest.partition(":")
    kinds = [each.value for each in ClientKind]
    if not name or kind not in kinds or not file:
        raise ConfigurationError(f"--client {text}: write NAME:KIND:FILE, KIND being one of {', '.join(kinds)}")
    return Invitation(name, ClientKind(kind), Path(file))


def _steps(
    rest: FederationClient,
    config: FederationConfig,
    invitations: list[Invitation],
    *,
    adapter: str,
    path: Path | None,
    options: dict[str, object],
) -> Iterator[str]:
    if rest.exists():
        yield f"federation {config.name}: is there, its configuration stays as it is"
    else:
        rest.create(config.model_dump(mode="json", exclude_unset=True))
        yield f"federation {config.name}: created"
    if rest.public_set() is not None:
        yield "public set: is there"
    else:
        from fedafd.datasets import load_public_data, write_public_set

        with tempfile.TemporaryDirectory() as folder:
            write_public_set(load_public_data(adapter, path, options), Path(folder))
            rest.push_public_set(Path(folder))
        yield "public set: pushed"
    states = {each["name"]: each["state"] for each in rest.clients()}
    for invitation in invitations:
        if states.get(invitation.name) == "enrolled":
            yield f"client {invitation.name}: is enrolled"
            continue
        # A token is shown once. Inviting a client again that has not enrolled replaces it.
        _write_token(invitation.token_file, rest.invite(invitation.name, invitation.kind.value))
        yield f"client {invitation.name}: invited, token in {invitation.token_file}"


def _write_token(path: Path, token: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:
            file.write(f"{token}\n")
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: the token cannot be written: {error.strerror}") from error


def _parsed(options: str) -> dict[str, object]:
    try:
        parsed = json.loads(options)
    except ValueError as error:
        raise ConfigurationError(f"--options: is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ConfigurationError('--options: must be a JSON object, such as {"num_train": 100}')
    return parsed
