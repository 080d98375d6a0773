"""`fedafd simulate`: compare methods on one machine, every role in one process."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedafd.cli.console import console_for, print_markdown
from fedafd.cli.simulate_compare import simulate_compare
from fedafd.cli.weights import IMAGE_WEIGHTS, TEXT_WEIGHTS, named_weights
from fedafd.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from fedafd.simulation.experiment import ExperimentConfig, RunKey

__all__ = ["simulate_app"]

_INTERRUPTED, _TERMINATED = 130, 143


simulate_app = typer.Typer()
simulate_app.command("compare")(simulate_compare)


@simulate_app.callback(invoke_without_command=True)
def simulate(
    context: typer.Context,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The experiment.yaml: docs/simulation.md.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="small, pretrained or paper: an experiment that comes with FedAFD. What the file says replaces it."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that paths of data are below; by default the file's.")
    ] = None,
    image_weights: Annotated[str | None, typer.Option(help=IMAGE_WEIGHTS)] = None,
    text_weights: Annotated[str | None, typer.Option(help=TEXT_WEIGHTS)] = None,
    output: Annotated[Path, typer.Option(help="Folder for results; the same folder goes on where it stopped.")] = Path(
        "simulate-output"
    ),
    strategies: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    scenarios: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    seeds: Annotated[str | None, typer.Option(help="For example 0,1,2.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds per run.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; by default one per core, or one per GPU.")] = None,
    device: Annotated[
        str,
        typer.Option(help="auto (all GPUs, if any), cpu, mps, cuda (the first), cuda:N, or several: cuda:0,cuda:1."),
    ] = "auto",
    keep_models: Annotated[bool, typer.Option(help="Keep the states of each run's chosen rounds.")] = False,
    restart: Annotated[
        bool, typer.Option(help="Set aside runs of other settings or other data that the output folder holds.")
    ] = False,
    report_only: Annotated[bool, typer.Option(help="Write the report of the runs that are done; run nothing.")] = False,
) -> None:
    """Compare strategies on one machine: strategies x scenarios x seeds, with tables, intervals and plots.

    Begin with fedafd simulate --preset small --data DIR. Interrupt it at any time: the same command goes on where it
    was. A run that fails does not end the others: it is named at the end, the exit code is 1, and the same command
    tries it again. Choices are made on validation splits; test splits are read once, at the end of a run.
    """
    if context.invoked_subcommand is not None:
        return
    from fedafd.simulation.devices import check_devices
    from fedafd.simulation.experiment import read_experiment

    check_devices(device)
    if workers is not None and workers < 1:
        raise ConfigurationError(f"--workers {workers}: expected 1 or more")
    if file is None and preset is None:
        raise ConfigurationError("give an experiment with -f experiment.yaml, or --preset small")
    given = {"preset": preset, "seeds": None if seeds is None else _numbers(seeds), "rounds": rounds}
    overrides = {key: value for key, value in given.items() if value is not None}
    experiment = read_experiment(file, overrides, data, weights=named_weights(image_weights, text_weights))
    experiment = _narrowed(experiment, "strategies", strategies)
    experiment = _narrowed(experiment, "scenarios", scenarios)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        output.mkdir(parents=True, exist_ok=True)
        if report_only:
            _report(experiment, output, {})
        else:
            _run(experiment, output, workers, device, keep_models=keep_models, restart=restart)
    except KeyboardInterrupt as stop:
        typer.echo(f"Stopped. The same command goes on where it was; what is done lies in {output}.")
        raise typer.Exit(_TERMINATED if isinstance(stop, _Terminated) else _INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, with an exit code of its own."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _run(
    experiment: ExperimentConfig,
    output: Path,
    workers: int | None,
    device: str,
    *,
    keep_models: bool,
    restart: bool,
) -> None:
    from fedafd.cli.simulate_view import SimulationView
    from fedafd.simulation.pool import default_workers, run_experiment

    count = workers or default_workers(len(experiment.runs()), device)
    with SimulationView(experiment, output, console_for(), console_for(stderr=True)).shown() as view:
        failed = run_experiment(
            experiment,
            output,
            workers=count,
            device=device,
            keep_models=keep_models,
            restart=restart,
            look=view.update,
            tell=view.say,
        )
    _report(experiment, output, failed)


def _report(experiment: ExperimentConfig, output: Path, failed: Mapping[RunKey, str]) -> None:
    from rich.text import Text

    from fedafd.simulation.kept_runs import check_kept_runs
    from fedafd.simulation.report import write_report

    console = console_for()
    check_kept_runs(experiment, output, None)
    files = write_report(experiment, output)
    print_markdown((output / "results.md").read_text(encoding="utf-8"), console)
    console.print("Written: " + ", ".join(str(file) for file in files))
    for key, reason in failed.items():
        console.print(Text.assemble(("failed", "red"), f" {key.name}: {reason}"))
    if failed:
        raise typer.Exit(1)


def _narrowed(experiment: ExperimentConfig, what: str, chosen: str | None) -> ExperimentConfig:
    if chosen is None:
        return experiment
    available = getattr(experiment, what)
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        raise ConfigurationError(
            f"--{what} {chosen}: {', '.join(unknown) or 'nothing'} is not in the experiment; it has:"
            f" {', '.join(available)}"
        )
    values: dict[str, Any] = {what: {name: available[name] for name in names}}
    if what == "strategies" and experiment.baseline not in names:
        values["baseline"] = names[0]
    return experiment.model_copy(update=values)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigurationError(f"--seeds {text}: expected whole numbers separated by commas, such as 0,1,2") from None
