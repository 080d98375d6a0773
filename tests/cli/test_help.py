"""`fedafd --help` tells each reader which commands are theirs."""

from __future__ import annotations

from typing import Any

import typer

from fedafd.cli.help_panels import FEDERATION, SERVER, SITE, START
from fedafd.cli.main import app


def test_every_command_stands_below_a_heading_that_says_who_it_is_for() -> None:
    group: Any = typer.main.get_command(app)
    headings = {name: command.rich_help_panel for name, command in group.commands.items()}
    assert set(headings.values()) == {START, SITE, FEDERATION, SERVER}, headings
