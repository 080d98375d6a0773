"""`fedafd agent check`: the site's data and everything around it, looked at before it joins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedafd.cli.agent_options import AgentYaml
from fedafd.cli.console import console_for
from fedafd.cli.output_file import need_writable_file
from fedafd.cli.output_format import OutputBesideFile, OutputFormat, print_answer
from fedafd.domain.whole_files import write_whole

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["agent_check"]


def agent_check(
    config: AgentYaml = Path("agent.yaml"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all that was found to this file.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet (PNG): a few samples of each class.")
    ] = None,
    offline: Annotated[bool, typer.Option(help="Leave the aggregator alone.")] = False,
    strict: Annotated[bool, typer.Option(help="Exit with 6 if there is something to look at.")] = False,
    output: OutputBesideFile = OutputFormat.TABLE,
) -> None:
    """Look at every sample, the device, one training step, the disk, the state folder and the aggregator.

    Joins nothing and spends no token. Exit codes: 0 ready, 2 configuration, 4 data, 5 aggregator not reachable.
    """
    from fedafd.agent.check import check_site
    from fedafd.agent.check_view import print_check
    from fedafd.agent.contact_sheet import write_contact_sheet
    from fedafd.agent.main import read_site

    for target in (json_file, sheet):
        if target is not None:
            need_writable_file(target)
    site = read_site(config)
    with _shown() as bar:
        task = bar.add_task("", total=None)
        check = check_site(
            site,
            offline=offline,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            doing=lambda words: bar.update(task, description=words),
        )
    if output.is_data:
        print_answer(check.to_dict(), output)
    else:
        print_check(check, console_for(), site=site, config=config)
    if json_file is not None:
        write_whole(json_file, json.dumps(check.to_dict(), indent=1), mode=0o600)
    if sheet is not None and check.data is not None:
        written = write_contact_sheet(check.data, sheet)
        said = f"contact sheet: {sheet}" if written else "contact sheet: texts have no picture, none written"
        typer.echo(said, err=output.is_data)
    raise typer.Exit(check.exit_code(strict=strict))


@contextmanager
def _shown() -> Iterator[Progress]:
    """A line on standard error while the check runs, on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = console_for(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar
