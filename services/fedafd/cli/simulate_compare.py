"""`fedafd simulate compare`: two outputs of simulations, run by run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.console import console_for, print_markdown
from fedafd.cli.output_file import need_writable_file
from fedafd.cli.output_format import OutputBesideFile, OutputFormat, print_answer
from fedafd.domain.whole_files import write_whole

__all__ = ["simulate_compare"]


def simulate_compare(
    first: Annotated[Path, typer.Argument(help="The --output of a simulation.")],
    second: Annotated[Path, typer.Argument(help="The --output of another; what it has more than the first is plus.")],
    strategy: Annotated[str | None, typer.Option(help="Only this strategy of the second.")] = None,
    against: Annotated[str | None, typer.Option(help="The first's strategy to compare it with; else the same.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all that was found to this file.")] = None,
    other_data: Annotated[bool, typer.Option(help="Compare runs that were made from other data, too.")] = False,
    output: OutputBesideFile = OutputFormat.TABLE,
) -> None:
    """Compare two simulations: paired differences, second minus first, with 95 % intervals over seeds.

    Runs pair by scenario, seed and strategy. What differs in their settings is told first; runs of other data are
    refused.
    """
    from fedafd.simulation.compare import compare

    if json_file is not None:
        need_writable_file(json_file)
    comparison = compare(first, second, strategy=strategy, against=against, other_data=other_data)
    if output.is_data:
        print_answer(comparison.to_dict(), output)
    else:
        print_markdown(comparison.markdown(), console_for())
    if json_file is not None:
        write_whole(json_file, json.dumps(comparison.to_dict(), indent=1))
        typer.echo(f"Written: {json_file}", err=output.is_data)
