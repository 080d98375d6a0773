"""One run of an experiment, resumable at any time. Its files, below `runs/<scenario>/<strategy>/seed-<n>/`:

    run.json         what the run is made from (fedafd.simulation.kept_runs)
    progress.json    rounds done with their validation metrics, and which round is chosen for whom; written last
    round-<n>/       stages of the round at work that are done, and waypoints within the one at work
    kept/            server states, personalized states and what belongs to them, by round
    result.json      test metrics of the chosen rounds, and scores by sample; the run is over. `kept/` goes then.

Every choice (the server's round, each client's round) is made on validation splits (fedafd.simulation.choice); the test
splits are read once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedafd.domain.config import usual_task
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.whole_files import write_whole
from fedafd.learning.tasks import find_task
from fedafd.simulation.choice import RoundChoice
from fedafd.simulation.cost import Meter, cost_of
from fedafd.simulation.data import PUBLIC_SET, load_run_data
from fedafd.simulation.effort import ClientSize
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.federation import ClientProgress, Federation, FederationProgress, SimulatedClient
from fedafd.simulation.files import read_json, write_json
from fedafd.simulation.forecast import Forecast
from fedafd.simulation.kept_runs import note_run
from fedafd.simulation.round_stages import RoundStages
from fedafd.tracking.run import TrackedRun, lasting_id
from fedafd.tracking.trackers import Trackers

__all__ = ["SERVER_STAGES", "run_one", "score_of"]

Watch = Callable[[int, float, str], None]
"""Told of the round at work, the share of the run that is done, and in words what is being done."""
_STAGES = "round-"
STAGE_SECONDS = "stage_seconds"
"""In a round's entry of progress.json: work and seconds of its stages by kind (fedafd.simulation.effort)."""
SERVER_STAGES = "server"
"""Folder below an experiment's output: stages of the server that its runs have in common."""


def score_of(metrics: Mapping[str, float], metric: str | None = None) -> float:
    """A client's own metric of the personalized model; where a result does not name it, rsum, else accuracy."""
    if metric is None:
        metric = "rsum" if "federated/rsum" in metrics else "acc1"
    return metrics[f"federated/{metric}"]


def run_one(
    experiment: ExperimentConfig,
    key: RunKey,
    output: Path,
    *,
    device: str = "auto",
    keep_models: bool = False,
    watch: Watch = lambda _, __, ___: None,
    forecast: Forecast | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Do a run, from where it was left; `tell` gets a line for what does not stop it, `forecast` hears of its stages.

    Returns the content of result.json. Raises what the roles raise.
    """
    folder = output / key.folder
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    config = experiment.federation_config(key)
    public, clients, prints = load_run_data(experiment, key)
    folder.mkdir(parents=True, exist_ok=True)
    note_run(folder, experiment, key, prints, device)
    kept_stages = output / SERVER_STAGES / prints[PUBLIC_SET]["fingerprint"][:16]
    run = _Run(Federation(config, public, clients, device=device, kept_stages=kept_stages), folder)
    run.federation.check_budgets(experiment.rounds)
    run.open()
    sizes = {c.name: ClientSize(c.kind, len(c.data.train), len(c.data.val)) for c in clients}
    forecast = forecast or Forecast(experiment)
    effort = forecast.begin(key, len(public["train"]), sizes)
    for entry in run.rounds:
        forecast.learn(entry.get(STAGE_SECONDS, {}))
    with closing(_trackers(experiment, key, output, tell)) as trackers:
        trackers.show(_points(run.rounds))
        for number in range(run.progress.round_number + 1, experiment.rounds + 1):
            meter = Meter(run.federation.device)
            absent = experiment.absent(key, number, [client.name for client in clients])
            stages = RoundStages(run.stages(number))
            begun = stages.begun()

            def at(stage: str, fraction: float, words: str, number: int = number, begun: Set[str] = begun) -> None:
                forecast.at(number, stage, fraction, kept=stage in begun)
                watch(number, effort.share(number, stage, fraction), words)

            finished = run.federation.run_round(run.progress, absent=absent, watch=at, stages=stages)
            forecast.ended()
            run.keep(finished, {**meter.read(), STAGE_SECONDS: forecast.measured()})
            trackers.show(_points(run.rounds))
    forecast.testing()
    watch(experiment.rounds, 1.0, "test")
    result = run.result(key)
    forecast.ended()
    write_json(folder / "result.json", result)
    run.stages(0)
    if not keep_models:
        shutil.rmtree(folder / "kept", ignore_errors=True)
    return result


def _trackers(experiment: ExperimentConfig, key: RunKey, output: Path, tell: Callable[[str], None]) -> Trackers:
    name = f"{key.scenario}/{key.strategy}/seed-{key.seed}"
    named = TrackedRun(
        name=name,
        id=f"{lasting_id(output)}/{name}" if experiment.tracking else name,
        tags={name: str(value) for name, value in key.model_dump().items()},
        output=output,
    )
    return Trackers(experiment.tracking, named, tell)


def _points(rounds: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Each round's metrics as a tracker shows them, by who they are of."""
    points = {}
    for entry in rounds:
        metrics = {"seconds": entry["seconds"]} | {f"server/{name}": value for name, value in entry["server"].items()}
        for client, metrics_of_client in entry["clients"].items():
            metrics |= {f"{client}/{name}": value for name, value in metrics_of_client.items()}
        points[entry["number"]] = metrics
    return points


class _Run:
    def __init__(self, federation: Federation, folder: Path) -> None:
        self.federation, self.folder = federation, folder
        self.progress = FederationProgress()
        self.rounds: list[dict[str, Any]] = []
        self.chosen: dict[str, RoundChoice] = {}

    def open(self) -> None:
        """Start anew, or go on from the last round kept. Raises DataError for what cannot be read."""
        (self.folder / "kept").mkdir(parents=True, exist_ok=True)
        if not (self.folder / "progress.json").exists():
            return
        saved = read_json(self.folder / "progress.json")
        if "chosen" not in saved:
            raise DataError(f"{self.folder}: begun by an older version of FedAFD; remove it to do the run anew")
        self.rounds = saved["rounds"]
        self.chosen = {name: RoundChoice.from_json(choice) for name, choice in saved["chosen"].items()}
        number = len(self.rounds)
        self.progress = FederationProgress(
            round_number=number,
            server_state=self._read(f"server-{number}"),
            clients={
                client.name: ClientProgress(
                    state=self._read(f"client-{client.name}-{number}"),
                    round_number=number,
                    metrics=self.rounds[-1]["clients"][client.name],
                )
                for client in self.federation.clients
            },
            uploads={
                name: {Modality(m): rows for m, rows in load(self._read(f"upload-{name}-{number}")).items()}
                for name in saved["ages"]
            },
            ages=saved["ages"],
            averages={name: self._read(f"average-{name}-{number}") for name in saved["averages"]},
            bundles={m: self._read(f"bundle-{m.value}-{number}") for m in Modality},
        )

    def stages(self, number: int) -> Path:
        """Folder of what is done of a round at work; those of other rounds go."""
        for path in self.folder.glob(f"{_STAGES}*"):
            if path.name != f"{_STAGES}{number}":
                shutil.rmtree(path, ignore_errors=True)
        return self.folder / f"{_STAGES}{number}"

    def keep(self, finished: FederationProgress, used: Mapping[str, Any]) -> None:
        """Files first, then progress.json in one step, then away with what nobody needs any more."""
        number = finished.round_number
        assert finished.server_state is not None
        assert finished.server is not None
        self._write(f"server-{number}", finished.server_state)
        self._write(f"sent-{number}", save({m.value: rows for m, rows in finished.representations.items()}))
        for modality, bundle in finished.bundles.items():
            self._write(f"bundle-{modality.value}-{number}", bundle)
        for name, average in finished.averages.items():
            self._write(f"average-{name}-{number}", average)
        for name, upload in finished.uploads.items():
            self._write(f"upload-{name}-{number}", save({m.value: rows for m, rows in upload.items()}))
        for name, client in finished.clients.items():
            assert client.state is not None
            self._write(f"client-{name}-{number}", client.state)
        self.rounds.append(
            {
                "number": number,
                **used,
                "traffic": finished.traffic,
                "server": finished.server.metrics,
                "clients": {name: dict(client.metrics) for name, client in finished.clients.items()},
            }
        )
        self._choose("server", number, finished.server.scores)
        for name, client in finished.clients.items():
            if client.round_number == number:
                self._choose(name, number, client.scores)
        self.progress = finished
        saved = {
            "rounds": self.rounds,
            "chosen": {name: choice.to_json() for name, choice in self.chosen.items()},
            "averages": sorted(finished.averages),
            "ages": dict(finished.ages),
        }
        write_json(self.folder / "progress.json", saved)
        self._clear()

    def _choose(self, name: str, number: int, scores: NDArray[np.float64]) -> None:
        choice = self.chosen.get(name)
        self.chosen[name] = RoundChoice(number, scores) if choice is None else choice.after(number, scores)

    def _clear(self) -> None:
        last = len(self.rounds)
        chosen = {name: choice.number for name, choice in self.chosen.items()}
        whole = {last, *chosen.values()}
        for path in (self.folder / "kept").iterdir():
            if path.name.startswith(".part-"):
                path.unlink()
                continue
            stem, _, number = path.name.rpartition("-")
            who = stem.removeprefix("client-")
            mine = {last, chosen.get(who, last)}
            if int(number) not in (whole if stem.startswith(("sent", "bundle")) else mine):
                path.unlink()

    def result(self, key: RunKey) -> dict[str, Any]:
        """Test metrics of the chosen rounds."""
        server_round = self.chosen["server"].number
        server = self.federation.evaluate_server(self._read(f"server-{server_round}"))
        clients = {}
        for client in self.federation.clients:
            number = self.chosen[client.name].number
            reps = {Modality(m): rows for m, rows in load(self._read(f"sent-{number}")).items()}
            bundles = {m: self._read(f"bundle-{m.value}-{number}") for m in client.kind.modalities}
            state = self._read(f"client-{client.name}-{number}")
            tested = self.federation.examine_client(client.name, state, reps, bundles)
            clients[client.name] = {
                "kind": client.kind.value,
                **_measured_by(client),
                "round": number,
                "num_private_samples": len(client.data.train),
                "metrics": tested.metrics,
                "scores": {
                    view: tested.scores[view].tolist() for view in _compared(client.kind) if view in tested.scores
                },
            }
        return {
            **key.model_dump(),
            "server": {"round": server_round, "metrics": server},
            "clients": clients,
            "rounds": self.rounds,
            "seconds": sum(entry["seconds"] for entry in self.rounds),
            "cost": cost_of(self.rounds),
        }

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.folder / "kept" / name, content)

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / "kept" / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.folder / 'kept' / name}: cannot be read: {error.strerror};"
                f" remove {self.folder} to do the run anew"
            ) from None


def _compared(kind: ClientKind) -> tuple[str, ...]:
    """Views of which each test sample's score is kept; classifiers are not compared with the global model."""
    return ("federated", "global") if kind is ClientKind.PAIR else ("federated",)


def _measured_by(client: SimulatedClient) -> dict[str, Any]:
    """The metric of a client's task, and its best value."""
    metric = find_task(client.task or usual_task(client.kind), client.kind).metric
    return {"metric": metric.name, "highest": metric.highest}
