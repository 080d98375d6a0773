"""`fedafd agent init`: looks at a folder, asks what it cannot see, writes agent.yaml."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedafd.cli.output_file import need_writable_file
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.plain_text import plain_text

if TYPE_CHECKING:
    from fedafd.agent.proposal import DataProposal

__all__ = ["agent_init"]

_DEFAULT_AGGREGATOR = "localhost:7443"


def agent_init(
    path: Annotated[Path | None, typer.Argument(help="The folder of your data.")] = None,
    kind: Annotated[ClientKind | None, typer.Option(help="What the data are; else seen from the folder.")] = None,
    adapter: Annotated[str | None, typer.Option(help="What reads them; else seen from the folder.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the adapter, NAME=VALUE; may be given again.")
    ] = None,
    aggregator: Annotated[str | None, typer.Option(help="host:port of the aggregator, from your operator.")] = None,
    authorities: Annotated[
        Path | None, typer.Option(help="PEM file of who signed the aggregator's certificate.")
    ] = None,
    state_dir: Annotated[str, typer.Option(help="Where the agent keeps its own files.")] = "fedafd-agent",
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("agent.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what was seen.")] = False,
    force: Annotated[bool, typer.Option(help="Overwrite the file.")] = False,
) -> None:
    """Write an agent.yaml for a folder of data: looks at it, proposes, asks what is left, and loads what it wrote."""
    from fedafd.agent.agent_file import agent_file
    from fedafd.agent.files import write_atomically

    need_writable_file(output)
    if output.exists() and not force:
        raise ConfigurationError(f"{output} is there already; give --force to overwrite it, or another --output")
    asks = not yes
    if path is None and adapter != "shapes":
        path = Path(_asked("Folder of your data", None, asks, "PATH"))
    proposal = _proposal(path, kind, adapter, _options(option or []))
    _describe(proposal)
    if asks and not _is_right():
        raise ConfigurationError("say it with --kind, --adapter and --option NAME=VALUE; docs/data.md lists them")
    if aggregator is None:
        aggregator = _asked("Address of the aggregator (host:port)", _DEFAULT_AGGREGATOR, asks, "--aggregator")
        if asks and authorities is None:
            with _answers():
                answer = typer.prompt(
                    "PEM file of who signed its certificate (empty: none)", default="", show_default=False
                )
            authorities = Path(answer).expanduser() if answer else None
    text, _ = agent_file(
        proposal,
        aggregator=aggregator,
        state_dir=state_dir,
        authorities=None if authorities is None else authorities.absolute(),
    )
    write_atomically(output.resolve(), text.encode())
    _next(output)


def _proposal(path: Path | None, kind: ClientKind | None, adapter: str | None, options: dict[str, Any]) -> DataProposal:
    from fedafd.agent.proposal import propose

    return propose(path, adapter=adapter, kind=kind, options=options)


def _describe(proposal: DataProposal) -> None:
    data = proposal.data
    counts = ", ".join(f"{name} {len(split)}" for name, split in _splits(proposal).items())
    where = "" if proposal.path is None else f"{proposal.path}: "
    typer.echo(plain_text(f"{where}{proposal.kind.value} data, read by {proposal.adapter}"))
    typer.echo(f"samples: {counts}")
    if data.labels:
        more = f" and {len(data.labels) - 8} more" if len(data.labels) > 8 else ""
        what = "classes" if proposal.task is None else "labels, several a sample"
        typer.echo(plain_text(f"{what}: {len(data.labels)} ({', '.join(data.labels[:8])}{more})"))
    for note in data.listing.notes:
        typer.echo(plain_text(f"note: {note}"))


def _splits(proposal: DataProposal) -> dict[str, Any]:
    from fedafd.datasets.fingerprint import splits_of

    return dict(splits_of(proposal.data))


def _asked(question: str, default: str | None, asks: bool, flag: str) -> str:
    if asks:
        with _answers():
            return str(typer.prompt(question, default=default))
    raise ConfigurationError(f"{flag} is needed where nothing may be asked; see `fedafd agent init --help`")


def _is_right() -> bool:
    with _answers():
        return typer.confirm("Is that right?", default=True)


@contextmanager
def _answers() -> Iterator[None]:
    """Tell Ctrl-C (exit code 130) from an input that ended, which click's prompts make the same."""
    try:
        yield
    except typer.Abort as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise ConfigurationError(
            "the input ended before all was answered, and nothing was written; give flags and --yes to be asked nothing"
        ) from None


def _options(given: list[str]) -> dict[str, Any]:
    import yaml

    from fedafd.domain.yaml_files import parse_yaml

    options = {}
    for option in given:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--option {option}: give NAME=VALUE")
        try:
            options[name.strip()] = parse_yaml(value)
        except yaml.YAMLError:
            raise ConfigurationError(f"--option {option}: the value is not readable as YAML") from None
    return options


def _next(output: Path) -> None:
    config = "" if os.fspath(output) == "agent.yaml" else f" --config {output}"
    typer.echo(f"\nwrote {output}. Next:")
    typer.echo(f"  fedafd agent check{config} --sheet sheet.png   # looks at every sample, joins nothing")
    typer.echo(f"  fedafd agent run{config} --token TOKEN         # the token is your operator's invitation")
