"""Tracker `mlflow`: one MLflow run a run, on a server or in a database file below `output`.

A run is found again by its tag `fedafd-run`, and what it holds already is not written twice. MLflow's reports of how it
is used, which go to its makers, are turned off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedafd.domain.claims import in_turn
from fedafd.domain.errors import ConfigurationError
from fedafd.tracking.run import TrackedRun, check_options

__all__ = ["MlFlow"]

_DATABASE = "mlflow.db"
_ID_TAG, _NAME_TAG = "fedafd-run", "mlflow.runName"
_MOST_IN_A_BATCH = 500
"""MLflow takes 1,000 metrics a call."""


class MlFlow:
    """The run of an experiment (`fedafd` unless the options name one) in the store at `uri`."""

    def __init__(self, run: TrackedRun, options: Mapping[str, Any]) -> None:
        """Raises ConfigurationError for unknown options or a missing library, and what MLflow raises."""
        check_options("mlflow", options, {"uri", "experiment"})
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        try:
            from mlflow.entities import Metric
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise ConfigurationError("needs MLflow: pip install 'fedafd[mlflow]'") from None
        self._metric = Metric
        experiment = options.get("experiment", "fedafd")
        # Of several processes that open a new database file at once, one makes its tables.
        with _alone(run.output / f".{_DATABASE}.lock") if "uri" not in options else _no_lock():
            self._client = MlflowClient(tracking_uri=options.get("uri", f"sqlite:///{run.output / _DATABASE}"))
            self._run_id, self._is_new = self._find(self._experiment(experiment), run)
        self._logged_steps: dict[str, set[int]] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics at the round's number, those left out that the run has at that round."""
        now = int(time.time() * 1000)
        new = [self._metric(name, value, now, step) for name, value in metrics.items() if step not in self._steps(name)]
        for at in range(0, len(new), _MOST_IN_A_BATCH):
            self._client.log_batch(self._run_id, metrics=new[at : at + _MOST_IN_A_BATCH])
        for metric in new:
            self._steps(metric.key).add(step)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run_id)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":
                raise ConfigurationError(
                    f"tracking.mlflow.experiment: {name!r} was deleted; restore it or name another"
                )
            return str(experiment.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:
            # Another run made it meanwhile.
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)

    def _find(self, experiment: str, run: TrackedRun) -> tuple[str, bool]:
        runs = self._client.search_runs([experiment], f"tags.`{_ID_TAG}` = '{run.id}'", max_results=1)
        if runs:
            run_id = str(runs[0].info.run_id)
            self._client.update_run(run_id, status="RUNNING")
            return run_id, False
        tags = {**run.tags, _ID_TAG: run.id}
        return str(self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id), True

    def _steps(self, name: str) -> set[int]:
        if name not in self._logged_steps:
            history = [] if self._is_new else self._client.get_metric_history(self._run_id, name)
            self._logged_steps[name] = {point.step for point in history}
        return self._logged_steps[name]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with in_turn(lock):
        yield


@contextmanager
def _no_lock() -> Iterator[None]:
    yield
