"""`fedafd agent ...`: what a site does beside its private data. Heavy imports stand inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.agent_approve import agent_approve
from fedafd.cli.agent_check import agent_check
from fedafd.cli.agent_headers import agent_headers
from fedafd.cli.agent_init import agent_init
from fedafd.cli.agent_options import AgentYaml, StateDir, Token, TokenFile, state_dir_of
from fedafd.cli.agent_status import agent_baseline, agent_status
from fedafd.cli.agent_ui import agent_ui
from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer

__all__ = ["agent_app"]

agent_app = typer.Typer(help="A site's agent: runs beside its private data.", no_args_is_help=True)
agent_app.command("init")(agent_init)
agent_app.command("check")(agent_check)
agent_app.command("approve", cls=AnswerCommand)(agent_approve)
agent_app.command("status", cls=AnswerCommand)(agent_status)
agent_app.command("baseline", cls=AnswerCommand)(agent_baseline)
agent_app.command("headers")(agent_headers)
agent_app.command("ui")(agent_ui)


@agent_app.command("run")
def agent_run(
    config: AgentYaml = Path("agent.yaml"),
    token: Token = None,
    token_file: TokenFile = None,
    state_dir: StateDir = None,
) -> None:
    """Run this site's agent until it is stopped. It dials out and opens no port."""
    from fedafd.agent.main import start_agent

    raise typer.Exit(start_agent(config, token=token, token_file=token_file, state_dir=state_dir))


@agent_app.command("explain", cls=AnswerCommand)
def agent_explain(
    config: AgentYaml = Path("agent.yaml"),
    fields: Annotated[bool, typer.Option("--fields", help="Each field of each message, too.")] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say in words what would leave this site by its agent.yaml as it is, and what its policy refuses. Asks nobody."""
    from fedafd.agent.explain import explained, explained_as_data
    from fedafd.agent.main import read_site

    site = read_site(config)
    if output.is_data:
        print_answer(explained_as_data(site, fields=fields), output)
        return
    for line in explained(site, fields=fields):
        typer.echo(line)


@agent_app.command("sent", cls=AnswerCommand)
def agent_sent(
    config: AgentYaml = Path("agent.yaml"),
    state_dir: StateDir = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print everything that has left this site."""
    from fedafd.agent.ledger import format_sent, read_sent

    sent = read_sent(state_dir_of(config, state_dir))
    if output.is_data:
        print_answer(list(sent), output)
    else:
        typer.echo(format_sent(sent))


@agent_app.command("reset")
def agent_reset(
    config: AgentYaml = Path("agent.yaml"),
    state_dir: StateDir = None,
) -> None:
    """Set the personalized state aside, so that the next round starts afresh. The agent must not run.

    Nothing is deleted: the state stays in a folder beside the new one. The credential and the record of what was sent
    stay as they are.
    """
    from fedafd.agent.saved_state import reset

    typer.echo(reset(config, state_dir))


@agent_app.command("export")
def agent_export(
    output: Annotated[Path, typer.Argument(help="The folder to make.")],
    config: AgentYaml = Path("agent.yaml"),
    state_dir: StateDir = None,
    force: Annotated[bool, typer.Option(help="Replace the folder, if it is a model.")] = False,
    best: Annotated[
        bool,
        typer.Option(
            help="The best by the validation split of: personalized, own branch, frozen global, trained alone."
        ),
    ] = False,
) -> None:
    """Copy this site's personalized model, whatever the site shares. The agent may be running."""
    from fedafd.agent.export import export_best_model, export_site_model

    root = state_dir_of(config, state_dir)
    if best:
        typer.echo(export_best_model(root, output, force=force).words(), err=True)
    else:
        export_site_model(root, output, force=force)
    typer.echo(str(output))
