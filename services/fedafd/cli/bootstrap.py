"""`fedafd bootstrap`: bring a federation to life from files, for jobs that start with a deployment.

Every step looks first whether it was done, so that the job may run at every start and be cut off anywhere.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.remote.options import DEFAULT_URL, warn_of_plain_text
from fedafd.cli.store import read_secret
from fedafd.client.set_up import Invitation
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind

__all__ = ["bootstrap", "parse_invitation"]


def bootstrap(
    file: Annotated[Path, typer.Option("--file", "-f", envvar="FEDAFD_BOOTSTRAP_FILE", help="federation.yaml")],
    api_key_file: Annotated[Path, typer.Option(envvar="FEDAFD_API_KEY_FILE", help="File with an operator's API key.")],
    url: Annotated[str, typer.Option(envvar="FEDAFD_URL", help="The control plane.")] = DEFAULT_URL,
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
    """Create a federation, push its public set and invite its clients; what is there already stays as it is."""
    from fedafd.client.federation import FederationClient
    from fedafd.client.set_up import set_up_federation
    from fedafd.domain.config import read_federation_config

    config = read_federation_config(file)
    invitations = [parse_invitation(words) for words in client or []]
    settings = config.model_dump(mode="json", exclude_unset=True)
    public_set = partial(_write_public_set, adapter=adapter, path=path, options=_parsed(options))
    rest = FederationClient(url, read_secret(api_key_file), config.name)
    warn_of_plain_text(url)
    try:
        for line in set_up_federation(rest, settings, public_set, invitations):
            typer.echo(line)
    finally:
        rest.close()


def parse_invitation(text: str) -> Invitation:
    """NAME:KIND:FILE. Raises ConfigurationError."""
    name, _, rest = text.partition(":")
    kind, _, file = rest.partition(":")
    kinds = [kind_name.value for kind_name in ClientKind]
    if not name or kind not in kinds or not file:
        raise ConfigurationError(f"--client {text}: write NAME:KIND:FILE, KIND being one of {', '.join(kinds)}")
    return Invitation(name, ClientKind(kind), Path(file))


def _write_public_set(folder: Path, *, adapter: str, path: Path | None, options: dict[str, object]) -> None:
    from fedafd.datasets import load_public_data, write_public_set

    write_public_set(load_public_data(adapter, path, options), folder)


def _parsed(options: str) -> dict[str, object]:
    try:
        parsed = json.loads(options)
    except ValueError as error:
        raise ConfigurationError(f"--options: is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ConfigurationError('--options: must be a JSON object, such as {"num_train": 100}')
    return parsed
