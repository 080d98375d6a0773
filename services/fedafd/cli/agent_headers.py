"""`fedafd agent headers`: what a request for this site's own models has to carry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.agent_options import AgentYaml, StateDir, state_dir_of

__all__ = ["agent_headers"]


def agent_headers(
    method: Annotated[str, typer.Argument(help="The request's method, such as GET.")],
    url: Annotated[str, typer.Argument(help="Its address, or the path of it.")],
    config: AgentYaml = Path("agent.yaml"),
    state_dir: StateDir = None,
) -> None:
    """Print the headers by which one REST request is this site's own, for `curl -H @-`: good once, for five minutes.

    They hold the site's credential: keep them to yourself. The agent may be running.
    """
    from urllib.parse import urlsplit

    from fedafd.agent.state import CREDENTIAL_FILE, StateDirectory
    from fedafd.domain.errors import DataError
    from fedafd.rpc.client_key import ClientKey

    root = state_dir_of(config, state_dir)
    credential = StateDirectory(root).load_credential() if (root / CREDENTIAL_FILE).is_file() else None
    if credential is None:
        raise DataError(
            f"{root}: this site has not enrolled yet; `fedafd agent run` does so with an invitation's token"
        )
    typer.echo(f"Authorization: Bearer {credential.secret}")
    request = f"{method.upper()} {urlsplit(url).path}"
    for name, value in ClientKey(credential.key, credential.certificate).metadata(credential.secret, request):
        typer.echo(f"{name.title()}: {value}")
