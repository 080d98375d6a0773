"""`fedafd agent status` and `fedafd agent baseline`: does the federation help this site?"""

from __future__ import annotations

from pathlib import Path

import typer

from fedafd.cli.agent_options import AgentYaml, StateDir, state_dir_of
from fedafd.cli.console import console_for
from fedafd.cli.output_format import Output, OutputFormat, print_answer

__all__ = ["agent_baseline", "agent_status"]


def agent_status(
    config: AgentYaml = Path("agent.yaml"),
    state_dir: StateDir = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Tell where this site stands: what it is, its rounds, whether they helped, its model. Asks no service."""
    from fedafd.agent.status import status_of
    from fedafd.agent.status_view import print_status

    status = status_of(state_dir_of(config, state_dir))
    if output.is_data:
        print_answer(status.to_dict(), output)
    else:
        print_status(status, console_for())


def agent_baseline(
    config: AgentYaml = Path("agent.yaml"),
    output: Output = OutputFormat.TABLE,
) -> None:
    """Train the same model alone, for as many rounds as this site delivered, and tell what the federation gave.

    May be stopped at any time: it goes on from its last epoch.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from fedafd.agent.baseline import advance, baseline_target
    from fedafd.agent.benefit import benefits
    from fedafd.agent.main import read_site
    from fedafd.domain.errors import DataError

    site = read_site(config)
    target = baseline_target(site.state_dir)
    if not target:
        raise DataError(
            f"{site.state_dir}: no round is delivered yet; the baseline trains for as many rounds as the agent did"
        )
    console = console_for(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading the data", total=None)
        advance(
            site,
            progress=lambda number, share, activity: bar.update(
                task, description=f"round {number}, {activity}", completed=share, total=1.0
            ),
        )
    last = benefits(site.state_dir)[-1]
    if output.is_data:
        print_answer(last.to_dict(), output)
        return
    typer.echo(last.words())
    for warning in last.warnings():
        typer.echo(warning)
