"""`fedafd agent approve`: a person at the site says yes to what the federation changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.agent_options import AgentYaml, StateDir, state_dir_of
from fedafd.cli.output_format import Output, OutputFormat, print_answer
from fedafd.domain.errors import DataError

__all__ = ["agent_approve"]

_GONE = "--id: nothing waits for your approval now"


def agent_approve(
    config: AgentYaml = Path("agent.yaml"),
    state_dir: StateDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    show: Annotated[bool, typer.Option(help="Only show what waits.")] = False,
    only: Annotated[
        str | None, typer.Option("--id", help="Only what --show told this ID of; a round may have brought another.")
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show what the federation changed or wants to use, and approve it. The agent may be running.

    What waits for that: `policy.approve` in agent.yaml. The next round goes on with it. As JSON or YAML it asks
    nothing: it approves with --yes, and only shows without.
    """
    from fedafd.agent.approval import approve, proposal_id, proposal_words, read_proposal

    root = state_dir_of(config, state_dir)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the agent's state_dir, or its agent.yaml with --config")
    proposal = read_proposal(root)
    waits = None if proposal is None else proposal_id(proposal)
    if only is not None and only != waits:
        raise DataError(f"--id {only}: what waits now has the ID {waits}; look at it with --show" if waits else _GONE)
    if output.is_data:
        if yes and not show and proposal is not None:
            approve(root, proposal)
        print_answer({"waits": proposal, "id": waits, "approved": yes and not show and proposal is not None}, output)
        return
    if proposal is None:
        typer.echo("nothing waits for your approval")
        return
    for line in proposal_words(root, proposal):
        typer.echo(line)
    if show:
        return
    if not yes:
        typer.echo("")
        typer.confirm("Approve it?", default=False, abort=True)
    approve(root, proposal)
    typer.echo("approved; the next round goes on with it")
