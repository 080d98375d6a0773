"""Options that the commands of a site share, and the agent's process where it is started by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AgentYaml", "StateDir", "Token", "TokenFile"]

AgentYaml = Annotated[
    Path,
    typer.Option(envvar="FEDAFD_AGENT_CONFIG", help="The site's agent.yaml.", callback=lambda path: path.expanduser()),
]
StateDir = Annotated[
    Path | None, typer.Option(help="The agent's own folder; wins over FEDAFD_AGENT_STATE_DIR and agent.yaml.")
]
Token = Annotated[str | None, typer.Option(help="One-time enrolment token; first start only.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="A file that holds the token, which then stands in no list of processes.")
]
