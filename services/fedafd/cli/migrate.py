"""`fedafd migrate`: bring the database to this program's schema, or say where it is."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer
from fedafd.domain.errors import ConfigurationError, DatabaseUnavailableError

__all__ = ["migrate_app"]

_POLL_SECONDS = 0.5
_VARIABLES = ["FEDAFD_DATABASE_URL", "FEDAFD_CONTROL_PLANE_DATABASE_URL", "FEDAFD_AGGREGATOR_DATABASE_URL"]

DatabaseUrl = Annotated[
    str, typer.Option(envvar=_VARIABLES, help="sqlite:///path/to/file.db or postgresql://user:password@host/name.")
]

migrate_app = typer.Typer(
    help="Bring the database's schema up to date; run it before the processes of a new version start. "
    "Safe to repeat, and safe to run from several places at once.",
    invoke_without_command=True,
)


@migrate_app.callback()
def migrate(
    context: typer.Context,
    database_url: DatabaseUrl = "",
    revision: Annotated[str, typer.Option(help="head, base, or a revision's number; an older one goes down.")] = "head",
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a database that is not up yet.")] = 0,
) -> None:
    """Migrate to the newest revision (or to --revision). All of it happens, or nothing."""
    context.obj = database_url  # not required: `current -h` has none
    if context.invoked_subcommand is not None:
        return
    from fedafd.persistence import migrate as schema

    _need(database_url)
    _wait_for(database_url, wait)
    if sql:
        typer.echo(schema.migration_sql(database_url, revision))
        return
    before, after = schema.migrate(database_url, revision)
    typer.echo(f"at revision {after}: nothing to do" if before == after else f"migrated from {before} to {after}")


@migrate_app.command(cls=AnswerCommand)
def current(
    context: typer.Context,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print the database's revision and this program's; exits with 1 where they differ."""
    from fedafd.persistence import migrate as schema

    _need(context.obj)
    revision, head = schema.current_revision(context.obj) or schema.BASE, schema.head_revision()
    if output.is_data:
        print_answer({"current": revision, "head": head}, output)
    elif revision == head:
        typer.echo(f"{revision}, which is what this program needs")
    else:
        typer.echo(f"{revision}; this program needs {head}: run `fedafd migrate`")
    raise typer.Exit(revision != head)


def _need(database_url: str) -> None:
    if not database_url:
        raise ConfigurationError(f"which database? Give --database-url, or set one of {', '.join(_VARIABLES)}")


def _wait_for(database_url: str, seconds: float) -> None:
    from fedafd.persistence.migrate import current_revision

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            current_revision(database_url)
        except DatabaseUnavailableError:
            time.sleep(_POLL_SECONDS)
        else:
            return
