"""What the commands that talk to a control plane have in common: their options, and the client that these describe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from fedafd.client.control_plane import ControlPlaneClient
from fedafd.domain.plain_text import plain_text
from fedafd.domain.proxies import is_loopback
from fedafd.domain.secrets import read_secret_file

__all__ = ["DEFAULT_URL", "ApiKey", "Federation", "Url", "connect", "warn_of_plain_text"]

Url = Annotated[str, typer.Option("--url", envvar="FEDAFD_URL", help="The control plane.")]
ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="FEDAFD_API_KEY",
        help="Your API key; or set FEDAFD_API_KEY_FILE to a file that holds it.",
        show_default=False,
    ),
]
Federation = Annotated[str, typer.Option("--federation", "-F", envvar="FEDAFD_FEDERATION", help="The federation.")]

DEFAULT_URL = "http://127.0.0.1:8080"


def connect(url: str, api_key: str) -> ControlPlaneClient:
    """The client for `url`; without a key that of the file that FEDAFD_API_KEY_FILE names.

    Raises ConfigurationError for a URL or a key that cannot be one.
    """
    file = os.environ.get("FEDAFD_API_KEY_FILE", "")
    if not api_key and file:
        api_key = read_secret_file(Path(file), "FEDAFD_API_KEY_FILE")
    client = ControlPlaneClient(url, api_key)
    warn_of_plain_text(client.url)
    return client


def warn_of_plain_text(url: str) -> None:
    """Say on standard error that a key goes to another machine without TLS, where it does."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        typer.echo(
            f"warning: {plain_text(url)}: the API key goes there without TLS and can be read on the way; use https",
            err=True,
        )
