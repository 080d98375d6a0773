"""`fedafd region ...`: sites of one region as one participant of an upper federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer

__all__ = ["region_app"]

region_app = typer.Typer(
    help="A region: sites of its own as one participant of an upper federation.", no_args_is_help=True
)


@region_app.command("run")
def region_run(
    config: Annotated[Path, typer.Option("--config", "-f", help="region.yaml")] = Path("region.yaml"),
    token: Annotated[str | None, typer.Option(help="One-time enrolment token; first start only.")] = None,
) -> None:
    """Follow the upper federation's rounds until stopped. Settings: FEDAFD_REGION_*."""
    from fedafd.region.main import start_region

    raise typer.Exit(start_region(config, token=token))


@region_app.command("sent", cls=AnswerCommand)
def region_sent(
    config: Annotated[Path, typer.Option("--config", "-f", help="region.yaml")] = Path("region.yaml"),
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print everything that this region has sent up."""
    from fedafd.agent.ledger import format_sent, read_sent
    from fedafd.domain.config.reading import read_region_config

    sent = read_sent(read_region_config(config).state_dir)
    if output.is_data:
        print_answer(list(sent), output)
    else:
        typer.echo(format_sent(sent))
