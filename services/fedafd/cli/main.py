"""The command `fedafd`. Heavy imports stand inside the commands that need them, so that --help answers at once."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

from fedafd.cli.agent import agent_app
from fedafd.cli.audit import audit_app
from fedafd.cli.bootstrap import bootstrap
from fedafd.cli.demo import demo
from fedafd.cli.doctor.command import doctor
from fedafd.cli.health import health
from fedafd.cli.help_panels import FEDERATION, SERVER, SITE, START
from fedafd.cli.migrate import migrate_app
from fedafd.cli.output_format import AnswerCommand
from fedafd.cli.predict import predict
from fedafd.cli.profiles import apply_profile
from fedafd.cli.region import region_app
from fedafd.cli.remote import REMOTE_COMMANDS, add_remote_commands
from fedafd.cli.running import run
from fedafd.cli.search import search
from fedafd.cli.simulate import simulate_app
from fedafd.cli.store import store_app
from fedafd.cli.up import up

__all__ = ["app", "main"]

app = typer.Typer(
    name="fedafd",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel=START)(demo)
app.command(rich_help_panel=START)(up)
app.add_typer(simulate_app, name="simulate", rich_help_panel=START)
app.add_typer(agent_app, name="agent", rich_help_panel=SITE)
app.command(rich_help_panel=SITE)(predict)
app.command(rich_help_panel=SITE)(search)
app.command(rich_help_panel=FEDERATION)(bootstrap)
add_remote_commands(app)
app.add_typer(audit_app, name="audit", rich_help_panel=FEDERATION)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedafd {version('fedafd')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    profile: Annotated[
        str | None, typer.Option(envvar="FEDAFD_PROFILE", help="Which control plane, as whom: see `fedafd profile`.")
    ] = None,
) -> None:
    """Multimodal federated learning without sharing data. Try [bold]fedafd demo[/], then [bold]fedafd up[/]."""
    if profile or context.invoked_subcommand in REMOTE_COMMANDS:
        apply_profile(profile, os.environ)


@app.command("control-plane", rich_help_panel=SERVER)
def control_plane() -> None:
    """Run the control plane (REST). Settings: FEDAFD_CONTROL_PLANE_*."""
    from fedafd.control_plane.app import main as serve

    raise typer.Exit(serve())


@app.command(rich_help_panel=SERVER)
def aggregator() -> None:
    """Run an aggregator (gRPC, coordinator). Settings: FEDAFD_AGGREGATOR_*."""
    from fedafd.aggregator.server import main as serve

    raise typer.Exit(serve())


@app.command(rich_help_panel=SERVER)
def distiller() -> None:
    """Run a distiller (GPU worker). Settings: FEDAFD_DISTILLER_*."""
    from fedafd.distiller.worker import main as serve

    raise typer.Exit(serve())


@app.command(rich_help_panel=SERVER)
def queries() -> None:
    """Run a query worker, which lets people try model versions. Settings: FEDAFD_QUERIES_*."""
    from fedafd.distiller.queries.worker import main as serve

    raise typer.Exit(serve())


app.add_typer(region_app, name="region", rich_help_panel=SERVER)
app.add_typer(migrate_app, name="migrate", rich_help_panel=SERVER)
app.add_typer(store_app, name="store", rich_help_panel=SERVER)
app.command(cls=AnswerCommand, rich_help_panel=SERVER)(doctor)
app.command(rich_help_panel=SERVER)(health)


def main() -> None:
    """Entry of the program."""
    run(app)


if __name__ == "__main__":
    main()
