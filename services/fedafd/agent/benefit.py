"""Does the federation help this site? Each round's model beside its own branch, the frozen global one and the baseline.

All four are scored on the same samples of the site, so the error that is told is that of their difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.history import DeliveredRound, History
from fedafd.agent.kept_scores import SplitScores
from fedafd.learning.comparison import PairedDifference, paired_difference

__all__ = ["METRIC_NAMES", "MODELS", "RoundBenefit", "SplitBenefit", "benefit_of", "benefits"]

MODELS: Mapping[str, str] = {
    "federated": "personalized model",
    "local": "own branch",
    "global": "frozen global model",
    "alone": "trained alone",
}
"""The views in words, the order of all tables."""
_COMPARED = ("local", "global", "alone")
_SAID_IF_BELOW = {"alone": "the same model trained alone", "global": "the frozen global model"}
METRIC_NAMES = {"local": "over_local", "global": "over_global", "alone": "over_alone"}


@dataclass(frozen=True, kw_only=True)
class SplitBenefit:
    """On one split: the value of each view that there is, and the personalized model's difference to each other."""

    metric: str
    """The task's own: acc1 in percent, rsum, 0 to 600, and so on."""
    num_samples: int
    values: Mapping[str, float]
    differences: Mapping[str, PairedDifference]
    alone: Mapping[str, float]
    """All metrics of the baseline; empty while it has not trained for as many rounds."""


@dataclass(frozen=True, kw_only=True)
class RoundBenefit:
    """Of one delivered round."""

    round_number: int
    participation: int
    delivered_at: str
    splits: Mapping[str, SplitBenefit]

    @property
    def on(self) -> str | None:
        """The split that is told: test, or val where the site has no test samples."""
        return next((name for name in ("test", "val") if name in self.splits), None)

    def words(self) -> str:
        """One line for a person: all values, each difference with its error."""
        if self.on is None:
            return f"round {self.round_number}: nothing to compare; the data have no test and no validation sample"
        split = self.splits[self.on]
        parts = [f"{MODELS['federated']} {split.values['federated']:.1f}"]
        for view in _COMPARED:
            if view in split.values:
                gain = _gain(split.differences.get(view))
                parts.append(f"{MODELS[view]} {split.values[view]:.1f}{gain}")
        unit = "%" if split.metric != "rsum" else "of 600"
        on = f"{split.metric} in {unit} on {split.num_samples} {self.on} samples"
        return f"round {self.round_number}: {', '.join(parts)} ({on})"

    def warnings(self) -> list[str]:
        """Where the personalized model is the worse one by more than a standard error, in words."""
        if self.on is None:
            return []
        sentences = []
        for view, name in _SAID_IF_BELOW.items():
            difference = self.splits[self.on].differences.get(view)
            if difference is not None and difference.is_below:
                sentences.append(
                    f"the personalized model of round {self.round_number} is worse than {name}, by"
                    f" {-difference.mean:.1f} ± {difference.standard_error:.1f}; `fedafd agent export FOLDER --best`"
                    " takes the best of them by the validation split"
                )
        return sentences

    def metrics(self) -> dict[str, float]:
        """What of it is a metric of the test split: the baseline's, and differences with their standard errors."""
        split = self.splits.get("test")
        if split is None:
            return {}
        shown = {f"alone/{name}": value for name, value in split.alone.items()}
        shown |= {f"{METRIC_NAMES[view]}/difference": difference.mean for view, difference in split.differences.items()}
        errors = {view: difference.standard_error for view, difference in split.differences.items()}
        return shown | {f"{METRIC_NAMES[v]}/standard_error": e for v, e in errors.items() if e is not None}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "round": self.round_number,
            "participation": self.participation,
            "delivered_at": self.delivered_at,
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "warnings": self.warnings(),
        }


def benefits(root: Path) -> list[RoundBenefit]:
    """Of all delivered rounds of a state directory, first to last."""
    baseline = BaselineFolder(root)
    return [benefit_of(record, baseline) for record in History(root).rounds()]


def benefit_of(delivered: DeliveredRound, baseline: BaselineFolder) -> RoundBenefit:
    """The round beside the baseline that has trained for as many rounds; without it while there is none."""
    alone = baseline.scores(delivered.participation)
    splits = {
        name: _split(split, None if alone is None else alone.splits.get(name))
        for name, split in delivered.splits.items()
    }
    return RoundBenefit(
        round_number=delivered.number,
        participation=delivered.participation,
        delivered_at=delivered.delivered_at,
        splits=splits,
    )


def _split(split: SplitScores, alone: SplitScores | None) -> SplitBenefit:
    views = dict(split.views)
    # Data that changed in between: the two were not asked the same.
    if alone is not None and alone.samples == split.samples:
        views["alone"] = alone.views["alone"]
    mine = views["federated"]
    metric = mine.metric
    return SplitBenefit(
        metric=metric,
        num_samples=len(mine.scores),
        values={view: views[view].metrics[metric] for view in MODELS if view in views},
        alone=views["alone"].metrics if "alone" in views else {},
        differences={v: paired_difference(mine.scores, views[v].scores) for v in _COMPARED if v in views},
    )


def _gain(difference: PairedDifference | None) -> str:
    if difference is None:
        return ""
    error = "" if difference.standard_error is None else f" ± {difference.standard_error:.1f}"
    return f" ({difference.mean:+.1f}{error})"
