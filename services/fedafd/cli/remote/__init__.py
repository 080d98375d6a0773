"""Commands that talk to a control plane: FEDAFD_URL and FEDAFD_API_KEY, or a profile, say which, and as whom."""

from __future__ import annotations

import typer

from fedafd.cli.help_panels import FEDERATION
from fedafd.cli.output_format import AnswerCommand
from fedafd.cli.remote.clients import client_app
from fedafd.cli.remote.drain import drain, resume
from fedafd.cli.remote.events import events
from fedafd.cli.remote.federations import federation_app, public_set_app
from fedafd.cli.remote.keys import key_app
from fedafd.cli.remote.models import model_app
from fedafd.cli.remote.profiles import profile_app
from fedafd.cli.remote.rounds import round_app
from fedafd.cli.remote.status import status

__all__ = ["REMOTE_COMMANDS", "add_remote_commands"]

REMOTE_COMMANDS = frozenset(
    {
        "audit",
        "bootstrap",
        "client",
        "drain",
        "events",
        "federation",
        "key",
        "model",
        "public-set",
        "resume",
        "round",
        "status",
    }
)
"""Commands that the default profile holds for."""


def add_remote_commands(app: typer.Typer) -> None:
    """Attach the groups of what there is (federation, client, round and so on) and the commands that stand alone."""
    for name, group in (
        ("federation", federation_app),
        ("public-set", public_set_app),
        ("client", client_app),
        ("round", round_app),
        ("model", model_app),
        ("key", key_app),
        ("profile", profile_app),
    ):
        app.add_typer(group, name=name, rich_help_panel=FEDERATION)
    for command in (status, events, drain, resume):
        app.command(cls=AnswerCommand, rich_help_panel=FEDERATION)(command)
