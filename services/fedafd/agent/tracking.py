"""The site's own trackers: its losses, and each round's model beside the other three, on the site's own samples.

All of it stays where the site's `tracking` puts it; nothing is sent to the aggregator.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.benefit import METRIC_NAMES, SplitBenefit, benefit_of
from fedafd.agent.history import History
from fedafd.agent.state import StateDirectory
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import FedafdError
from fedafd.telemetry.logging import get_logger
from fedafd.tracking.run import TrackedRun, lasting_id
from fedafd.tracking.trackers import Trackers

__all__ = ["SiteTracking", "site_points"]

_CLOSE_SECONDS = 5.0
"""An agent that is asked to stop has little time."""
_VIEWS = {"federated": "personalized", "local": "own", "global": "global", "alone": "alone"}
_log = get_logger(__name__)


class SiteTracking:
    """Of one agent; does nothing where its configuration names no tracker."""

    def __init__(self, config: AgentConfig, state: StateDirectory) -> None:
        self._config, self._state = config, state
        self._trackers: Trackers | None = None

    def show(self) -> None:
        """Something is new: a delivered round, or the baseline of one."""
        if not self._config.tracking:
            return
        try:
            self._trackers = self._trackers or self._open()
            if self._trackers is not None:
                self._trackers.show(site_points(self._state))
        except (FedafdError, OSError) as error:
            _tell(str(error))

    def close(self) -> None:
        """Write what was shown, as far as that takes no longer than moments."""
        if self._trackers is not None:
            self._trackers.close()

    def _open(self) -> Trackers | None:
        credential = self._state.load_credential()
        if credential is None:
            return None
        run = TrackedRun(
            name=f"{credential.federation_id}/{credential.client_name}",
            id=f"{lasting_id(self._state.root)}/{credential.federation_id}",
            tags={
                "federation": credential.federation_id,
                "client": credential.client_name,
                "kind": credential.kind.value,
            },
            output=self._state.root.absolute(),
        )
        return Trackers(self._config.tracking, run, _tell, close_seconds=_CLOSE_SECONDS)


def site_points(state: StateDirectory) -> dict[int, dict[str, float]]:
    """By round: `train/loss`, and on each split of the site's each model's metric and the differences."""
    baseline = BaselineFolder(state.root)
    points: dict[int, dict[str, float]] = {}
    for delivered in History(state.root).rounds():
        metrics = {} if delivered.loss is None else {"train/loss": delivered.loss}
        for name, split in benefit_of(delivered, baseline).splits.items():
            metrics |= {f"{name}/{key}": value for key, value in _split_points(split).items()}
        points[delivered.number] = metrics
    return points


def _split_points(split: SplitBenefit) -> Mapping[str, float]:
    metrics = {f"{_VIEWS[view]}/{split.metric}": value for view, value in split.values.items()}
    for view, difference in split.differences.items():
        metrics[f"{METRIC_NAMES[view]}/difference"] = difference.mean
        if difference.standard_error is not None:
            metrics[f"{METRIC_NAMES[view]}/standard_error"] = difference.standard_error
    return metrics


def _tell(line: str) -> None:
    _log.warning("agent.not_tracked", reason=line)
