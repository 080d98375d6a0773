"""`fedafd bootstrap`: bring a federation to life: in jobs that start with a deployment, and as a first trial.

Every step looks first whether it was done, so that the job may run at every start and be cut off anywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from fedafd.cli.doctor.up_folder import up_folder
from fedafd.cli.output_format import OutputFormat
from fedafd.cli.own_sites import OwnSite, parse_site, run_command, write_agent_yaml
from fedafd.cli.remote.options import DEFAULT_URL, connect
from fedafd.cli.remote.rounds import follow_rounds
from fedafd.cli.store import read_secret
from fedafd.client.set_up import Invitation
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.states import OPEN_ROUND_STATES, RoundState

if TYPE_CHECKING:
    from fedafd.client.federation import FederationClient
    from fedafd.domain.config import FederationConfig

__all__ = ["RoundPlan", "bootstrap", "parse_invitation", "plan_rounds"]

_LOOK_SECONDS = 1.0


def bootstrap(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", envvar="FEDAFD_BOOTSTRAP_FILE", help="federation.yaml")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Without a file: a federation of this name, with preset small.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(envvar="FEDAFD_API_KEY_FILE", help="File with an operator's API key.")
    ] = None,
    url: Annotated[str, typer.Option(envvar="FEDAFD_URL", help="The control plane.")] = DEFAULT_URL,
    client: Annotated[
        list[str] | None, typer.Option(help="NAME:KIND:FILE: invite the client, write its one-time token to FILE.")
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME:KIND:DATA: invite a site of this machine, write NAME/agent.yaml and NAME/token. Without :DATA it"
            " takes generated data, as a trial."
        ),
    ] = None,
    aggregator: Annotated[
        str | None, typer.Option(help="host:port that these sites dial; that of a `fedafd up` in this folder is known.")
    ] = None,
    adapter: Annotated[
        str, typer.Option(envvar="FEDAFD_PUBLIC_ADAPTER", help="Public set: shapes, flickr, coco or parquet.")
    ] = "shapes",
    path: Annotated[Path | None, typer.Option(envvar="FEDAFD_PUBLIC_PATH", help="The public set's folder.")] = None,
    options: Annotated[
        str, typer.Option(envvar="FEDAFD_PUBLIC_OPTIONS", help="The adapter's options, as JSON.")
    ] = "{}",
    rounds: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help="Rounds that the federation has completed afterwards: what is missing starts as soon as these clients'"
            " agents are there.",
        ),
    ] = 0,
) -> None:
    """Create a federation, push its public set and invite its clients; what is there already stays as it is."""
    from fedafd.client.federation import FederationClient
    from fedafd.client.set_up import set_up_federation

    config = _federation(file, name)
    sites = [parse_site(words) for words in site or []]
    invitations = [parse_invitation(words) for words in client or []] + [own.invitation for own in sites]
    settings = config.model_dump(mode="json", exclude_unset=True)
    public_set = partial(_write_public_set, adapter=adapter, path=path, options=_parsed(options))
    if api_key_file is None:
        raise ConfigurationError(
            "no API key: give --api-key-file or set FEDAFD_API_KEY_FILE, or run this where the folder of `fedafd up` is"
        )
    api_key = read_secret(api_key_file)
    control_plane, rest = connect(url, api_key), FederationClient(url, api_key, config.name)
    try:
        for line in _own_sites(sites, url, aggregator):
            typer.echo(line)
        for line in set_up_federation(rest, settings, public_set, invitations):
            typer.echo(line)
        plan = plan_rounds(rest, rounds)
        for line in plan.lines:
            typer.echo(line)
        _say_next(rest, sites, invitations, waits=plan.missing > 0)
        if plan.missing:
            _wait_for(rest, {invitation.name for invitation in invitations})
            plan.open.extend(rest.start_rounds(plan.missing))
        if plan.open:
            follow_rounds(control_plane, config.name, plan.open, output=OutputFormat.TABLE)
    finally:
        rest.close()
        control_plane.close()


def _federation(file: Path | None, name: str | None) -> FederationConfig:
    from fedafd.domain.config import parse_federation_config, read_federation_config

    if file is not None and name is None:
        return read_federation_config(file)
    if file is None and name is not None:
        return parse_federation_config({"name": name, "preset": "small"}, "--name")
    raise ConfigurationError("give a federation.yaml with -f, or a --name for a federation with preset small")


def _own_sites(sites: Sequence[OwnSite], url: str, aggregator: str | None) -> Sequence[str]:
    """Write what each site starts from, before anybody is asked for anything. Raises ConfigurationError, DataError."""
    up = up_folder()
    here = up if up is not None and up.url == url and aggregator is None else None
    dialled = aggregator or (here.aggregator if here else None)
    if sites and dialled is None:
        raise ConfigurationError("--site: give --aggregator host:port too; no `fedafd up` of this folder says it")
    has_tls = here is not None and here.has_tls
    return [
        write_agent_yaml(site, str(dialled), seed=number, has_tls=has_tls) for number, site in enumerate(sites, start=1)
    ]


class RoundPlan(NamedTuple):
    """The rounds still to be run."""

    open: list[int]
    """Numbers of rounds that are queued or at work."""
    missing: int
    """How many to start."""
    lines: Sequence[str]


def plan_rounds(federation: FederationClient, wanted: int) -> RoundPlan:
    """What is missing to `wanted` completed rounds; a round that failed or was cancelled does not count."""
    if not wanted:
        return RoundPlan([], 0, [])
    states = {listed["number"]: listed["state"] for listed in federation.rounds()}
    completed = sum(state == RoundState.COMPLETED for state in states.values())
    if completed >= wanted:
        more = f"`fedafd round start -F {federation.name}` starts another"
        return RoundPlan([], 0, [f"rounds: already complete, {completed} of {wanted}; {more}"])
    open_rounds = sorted(number for number, state in states.items() if state in OPEN_ROUND_STATES)
    done = [f"rounds: {completed} of {wanted} already complete"] if completed else []
    going_on = [f"round {number}: is {states[number]}" for number in open_rounds]
    return RoundPlan(open_rounds, max(0, wanted - completed - len(open_rounds)), done + going_on)


def _say_next(
    federation: FederationClient, sites: Sequence[OwnSite], invitations: Sequence[Invitation], *, waits: bool
) -> None:
    """Who has to do what now, on standard error; nothing of sites whose agents are there."""
    own = {site.name for site in sites}
    online = {client["name"] for client in federation.clients() if client["online"]}
    others = [invitation for invitation in invitations if invitation.name not in own | online]
    steps = [run_command(site) for site in sites if site.name not in online]
    words = "fedafd agent init, then fedafd agent run --token-file"
    steps += [f"at {invitation.name}, with {invitation.token_file}: {words}" for invitation in others]
    if not waits:
        steps.append(f"fedafd round start -F {federation.name} --watch")
    if steps:
        typer.echo("Next, each in a terminal of its own:" if waits else "Next:", err=True)
    for step in steps:
        typer.echo(f"  {step}", err=True)


def _wait_for(federation: FederationClient, names: Set[str]) -> None:
    """Until the agents of these clients are there: a round without any would fail."""
    named: Set[str] = set()
    while away := names - {client["name"] for client in federation.clients() if client["online"]}:
        if away != named:
            typer.echo(f"waiting for the agents of {', '.join(sorted(away))}", err=True)
            named = away
        time.sleep(_LOOK_SECONDS)


def parse_invitation(text: str) -> Invitation:
    """NAME:KIND:FILE. Raises ConfigurationError."""
    name, _, rest = text.partition(":")
    kind, _, file = rest.partition(":")
    kinds = [kind_name.value for kind_name in ClientKind]
    if not name or kind not in kinds or not file:
        raise ConfigurationError(f"--client {text}: write NAME:KIND:FILE, KIND being one of {', '.join(kinds)}")
    return Invitation(name, ClientKind(kind), Path(file))


def _write_public_set(folder: Path, *, adapter: str, path: Path | None, options: dict[str, object]) -> None:
    from fedafd.datasets import load_public_data, write_public_set

    write_public_set(load_public_data(adapter, path, options), folder)


def _parsed(options: str) -> dict[str, object]:
    try:
        parsed = json.loads(options)
    except ValueError as error:
        raise ConfigurationError(f"--options: is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ConfigurationError('--options: must be a JSON object, such as {"num_train": 100}')
    return parsed
