"""`fedafd doctor`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.doctor.deployment import PREFIXES, Deployment, is_set_up, look_at_settings
from fedafd.cli.doctor.findings import Finding, Level, bad, worst
from fedafd.cli.output_format import Output, OutputFormat, print_answer
from fedafd.domain.plain_text import plain_text

__all__ = ["doctor"]

_MARKS = {Level.FINE: ("ok", "green"), Level.LOOK: ("look", "yellow"), Level.BAD: ("BAD", "red")}
_BAD = 1


def doctor(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="up.yaml: settings beside the environment. See docs/up.md.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a `fedafd up`: looks at what that has set up. By default ./fedafd-data where it is"
            " there and no process has variables here."
        ),
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Look at versions, settings, ports, certificates, clock, disk, database, broker, store, identity
    provider and device.

    Run it where a process runs, with its variables. It changes nothing, and exits with 1 if something is BAD.
    """
    from fedafd.cli.doctor.up_folder import default_folder, settings_of_folder
    from fedafd.cli.up_file import process_settings, read_up_file

    if folder is None and file is None and not any(is_set_up(process, os.environ) for process in PREFIXES):
        folder = default_folder()
        if folder is not None:
            typer.echo(f"looking at ./{folder}, the folder of a `fedafd up`", err=True)
    given = settings_of_folder(folder) if folder is not None else {}
    given |= read_up_file(file) if file is not None else {}
    os.environ.update(process_settings(given, os.environ))
    findings = []
    for finding in _findings():
        findings.append(finding)
        if output is OutputFormat.TABLE:
            _print(finding)
    level = worst(findings)
    if output is not OutputFormat.TABLE:
        print_answer({"level": level.value, "findings": [finding.to_dict() for finding in findings]}, output)
    if level is Level.BAD:
        raise typer.Exit(_BAD)


def _findings() -> Iterator[Finding]:
    from fedafd.cli.doctor.machine import look_at_disks, look_at_ports
    from fedafd.cli.doctor.versions import look_at_versions

    yield from look_at_versions([process for process in PREFIXES if is_set_up(process, os.environ)])
    deployment, of_settings = look_at_settings(os.environ)
    yield from of_settings
    yield from look_at_ports(deployment)
    yield from look_at_disks(deployment)
    for look in _looks(deployment):
        yield from _complete(look)


def _looks(deployment: Deployment) -> Iterator[Callable[[], Iterable[Finding]]]:
    """What needs the libraries of a process."""
    from fedafd.cli.doctor.device import look_at_device
    from fedafd.cli.doctor.lines import look_at_aggregators_files, look_at_line
    from fedafd.cli.doctor.servers import (
        look_at_broker,
        look_at_database,
        look_at_provider,
        look_at_queries,
        look_at_store,
    )

    if (database := deployment.first("database_url")) is not None:
        yield lambda: look_at_database(database)
    if (broker := deployment.first("redis_url")) is not None:
        yield lambda: look_at_broker(broker)
        yield lambda: look_at_queries(broker, is_set_up=deployment.queries is not None)
    for name, settings in deployment.loaded():
        yield lambda name=name, store=settings.store: [look_at_store(name, store)]  # type: ignore[misc]
    if (oidc := deployment.first("oidc")) is not None:
        yield lambda: [look_at_provider(oidc)]
    if (aggregator := deployment.aggregator) is not None:
        yield lambda: look_at_aggregators_files(aggregator)
    if (distiller := deployment.distiller) is not None:
        yield lambda: look_at_line(distiller)
        yield lambda: look_at_device("distiller", distiller.device)
    if (queries := deployment.queries) is not None:
        yield lambda: look_at_device("queries", queries.device)


def _complete(look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a look finds; where a library is missing, that."""
    try:
        yield from look()
    except ModuleNotFoundError as error:
        yield bad("versions", f"{error.name} is not installed, so this was not looked at", "install the extra above")


def _print(finding: Finding) -> None:
    mark, colour = _MARKS[finding.level]
    typer.secho(f"{mark:5}", fg=colour, nl=False)
    typer.echo(f"{finding.about:13}{plain_text(finding.words)}")
    if finding.remedy:
        typer.echo(f"{'':18}{plain_text(finding.remedy)}")
