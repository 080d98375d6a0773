"""Commands that talk to a control plane: FEDAFD_URL and FEDAFD_API_KEY say which, and as whom."""

from __future__ import annotations

import typer

from fedafd.cli.remote.clients import client_app
from fedafd.cli.remote.drain import drain, resume
from fedafd.cli.remote.events import events
from fedafd.cli.remote.federations import federation_app, public_set_app
from fedafd.cli.remote.keys import key_app
from fedafd.cli.remote.models import model_app
from fedafd.cli.remote.rounds import round_app

__all__ = ["add_remote_commands"]


def add_remote_commands(app: typer.Typer) -> None:
    """Attach the groups federation, public-set, client, round, model, key; the commands events, drain, resume."""
    for name, group in (
        ("federation", federation_app),
        ("public-set", public_set_app),
        ("client", client_app),
        ("round", round_app),
        ("model", model_app),
        ("key", key_app),
    ):
        app.add_typer(group, name=name)
    for command in (events, drain, resume):
        app.command()(command)
