"""Metrics in MLflow's own store, read back by MLflow: a run that is taken up again is the same run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.test_simulate import TINY

from fedafd.domain.errors import ConfigurationError
from fedafd.simulation.experiment import read_experiment
from fedafd.simulation.run import run_one
from fedafd.tracking.run import TrackedRun
from fedafd.tracking.trackers import Trackers

pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'fedafd[mlflow]'")

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from fedafd.tracking.mlflow import MlFlow


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: MLflow takes seconds to make a database."""
    return tmp_path_factory.mktemp("tracked")


def runs(output: Path, experiment: str = "fedafd") -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(tracking_uri=f"sqlite:///{output / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return client, list(client.search_runs([found.experiment_id]))


def shown(output: Path, rounds: int, id: str = "site/1") -> list[str]:
    told: list[str] = []
    run = TrackedRun(name="iid/fedafd", id=id, tags={"strategy": "fedafd"}, output=output)
    followed = Trackers({"mlflow": {}}, run, told.append)
    followed.show({number: {"server/rsum": 10.0 * number} for number in range(1, rounds + 1)})
    followed.close()
    return told


def test_a_run_that_is_taken_up_again_is_the_same_run_with_each_point_once(output: Path) -> None:
    assert shown(output, 1) + shown(output, 3) + shown(output, 2, id="site/2") == []
    client, found = runs(output)
    first = next(each for each in found if each.data.tags["fedafd-run"] == "site/1")
    history = client.get_metric_history(first.info.run_id, "server/rsum")
    assert [(point.step, point.value) for point in history] == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert (first.info.run_name, first.info.status, first.data.tags["strategy"]) == ("iid/fedafd", "FINISHED", "fedafd")
    assert len(found) == 2
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize(("options", "told"), [({"url": "x"}, "tracking.mlflow.url: not known"), ({"uri": 5}, "text")])
def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        MlFlow(TrackedRun(name="a", id="1", tags={}, output=tmp_path), options)


def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told: list[str] = []
    run = TrackedRun(name="a", id="1", tags={}, output=tmp_path)
    followed = Trackers({"mlflow": {"uri": "http://127.0.0.1:9"}}, run, told.append)
    followed.show({1: {"seconds": 1.0}})
    followed.close()
    (line,) = told
    assert line.startswith("tracker mlflow: ") and "127.0.0.1" in line and "\n" not in line


def test_a_simulation_leaves_its_rounds_in_one_run_a_run(output: Path, tmp_path: Path) -> None:
    options = {"experiment": "tiny", "uri": f"sqlite:///{output / 'mlflow.db'}"}
    values = TINY | {"rounds": 1, "strategies": ["fedafd"], "tracking": {"mlflow": options}}
    experiment = read_experiment(None, values, None)
    told: list[str] = []
    result = run_one(experiment, experiment.runs()[0], tmp_path, device="cpu", tell=told.append)
    _, (run,) = runs(output, "tiny")
    server = result["rounds"][0]["server"]
    assert {name: run.data.metrics[f"server/{name}"] for name in server} == server
    assert told == []


def test_the_library_is_loaded_only_by_who_tracks() -> None:
    code = "import sys, fedafd.tracking.trackers; sys.exit('mlflow' in sys.modules or 'tensorboardX' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
