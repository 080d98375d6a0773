"""The best of a site's models, by its validation split, as a folder: personalized, own branch, frozen global, or alone.

The test split takes no part in the choice, so that what it says of the chosen model stays true.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.benefit import MODELS
from fedafd.agent.history import DeliveredRound, History
from fedafd.agent.site_model import SiteModel
from fedafd.agent.state import MODEL_SOURCE_FILE, STATE_FILE, StateDirectory
from fedafd.domain.config import FusionMode
from fedafd.domain.errors import DataError
from fedafd.learning.evaluation import Evaluation
from fedafd.learning.model_sums import check_sums, write_sums

if TYPE_CHECKING:
    from fedafd.learning.personalized_export import Recipe

__all__ = ["BestModel", "choose_best", "write_best"]

_FUSION = {"local": FusionMode.OFF, "global": FusionMode.GLOBAL}
"""With this fusion a personalized model is its own branch, or the frozen global one, with the same head."""


@dataclass(frozen=True, kw_only=True)
class BestModel:
    """What was chosen among which."""

    view: str
    """One of MODELS."""
    round_number: int
    metric: str
    num_samples: int
    values: Mapping[str, float]
    """Of each candidate, on the validation split."""
    baseline_rounds: int
    """For how many rounds the baseline has trained; 0 where it was no candidate."""
    is_branch: bool = False
    """Whether the baseline is the branch of the personalized model that is trained alone."""

    def words(self) -> str:
        """Which it is, and why, for a person."""
        others = ", ".join(f"{MODELS[view]} {value:.2f}" for view, value in self.values.items())
        name = f"the site's {MODELS[self.view]}"
        if self.view == "alone":
            name = f"the site's encoder trained alone, without the federation, for {self.baseline_rounds} rounds"
        missing = "" if "alone" in self.values else "; the same model trained alone was not there to choose"
        return (
            f"This is {name}, as of round {self.round_number}: the best by {self.metric} on the {self.num_samples}"
            f" samples of the validation split ({others}{missing}). The test split took no part in the choice."
        )


def choose_best(root: Path) -> BestModel:
    """Among the models of the last delivered round and the baseline.

    Raises DataError before the first round, and where the site has no validation samples.
    """
    rounds = History(root).rounds()
    if not rounds:
        raise DataError(f"{root}: no delivered round has scores yet; the next one makes a choice possible")
    last = rounds[-1]
    if "val" not in last.splits:
        raise DataError(
            f"{root}: round {last.number} has no scores of a validation split, by which the best is chosen; give the"
            " data one, or export the personalized model without --best"
        )
    baseline_rounds, candidates = _candidates(root, last)
    metric = candidates["federated"].metric
    values = {view: float(candidates[view].scores.mean()) for view in MODELS if view in candidates}
    # Of equals the first: the personalized model before the others.
    best = max(values, key=lambda view: values[view])
    return BestModel(
        view=best,
        round_number=last.number,
        metric=metric,
        num_samples=len(candidates["federated"].scores),
        values=values,
        baseline_rounds=baseline_rounds,
        is_branch="alone" in last.splits["val"].views,
    )


def write_best(root: Path, folder: Path) -> BestModel:
    """Write the best model's folder, which is made. Raises what choose_best raises, DataError for what is not there."""
    best = choose_best(root)
    newest, current = StateDirectory(root).current_folder(), SiteModel(root).current()
    if newest is None or newest[0] != best.round_number or current is None or not _is_of(current, best.round_number):
        raise DataError(f"{root}: the model of round {best.round_number} is not there yet, or no longer; try again")
    state, part = newest[1] / STATE_FILE, None
    if best.view == "alone" and best.is_branch:
        part = "alone"
    elif best.view == "alone":
        rounds, path = BaselineFolder(root).state()
        if path is None or rounds != best.baseline_rounds:
            raise DataError(f"{root}: the baseline went on meanwhile; try again")
        state = path
    _write(best, newest[1] / MODEL_SOURCE_FILE, state, part, current / "global", folder, _tested_alone(root, best))
    return best


def _candidates(root: Path, last: DeliveredRound) -> tuple[int, dict[str, Evaluation]]:
    split, baseline = last.splits["val"], BaselineFolder(root)
    candidates = dict(split.views)
    if "alone" in candidates:
        return last.participation, candidates
    done = baseline.done()
    kept = baseline.scores(done)
    alone = None if kept is None else kept.splits.get("val")
    if alone is None or alone.samples != split.samples:
        return 0, candidates
    return done, candidates | {"alone": alone.views["alone"]}


def _is_of(model: Path, round_number: int) -> bool:
    try:
        return bool(json.loads((model / "config.json").read_bytes())["lineage"]["round"] == round_number)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _tested_alone(root: Path, best: BestModel) -> dict[str, float]:
    # A branch's are with the round's own.
    kept = BaselineFolder(root).scores(best.baseline_rounds) if best.view == "alone" and not best.is_branch else None
    tested = None if kept is None else kept.splits.get("test")
    return {} if tested is None else {f"alone/{name}": v for name, v in tested.views["alone"].metrics.items()}


def _write(
    best: BestModel,
    source: Path,
    state: Path,
    part: str | None,
    frozen: Path,
    folder: Path,
    tested_alone: Mapping[str, float],
) -> None:
    from fedafd.learning.personalized_export import Recipe, write_personalized_model

    try:
        recipe = Recipe.from_json(json.loads(source.read_bytes())["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: cannot be read: {error}; the next round makes a choice possible") from None
    # Damage would get hashes of its own in the copy.
    check_sums(frozen.parent, f"{frozen.name}/")
    folder.mkdir(parents=True)
    write_personalized_model(folder, _recipe_of(best, recipe, tested_alone), state=state, part=part, bundles={})
    shutil.copytree(frozen, folder / frozen.name)
    write_sums(folder)


def _recipe_of(best: BestModel, recipe: Recipe, tested_alone: Mapping[str, float]) -> Recipe:
    from fedafd.learning.alone import alone

    config, lineage = recipe.config, dict(recipe.lineage) | {"model": MODELS[best.view]}
    if best.view == "alone":
        config = alone(config)
    elif best.view in _FUSION:
        fusion = config.fusion.model_copy(update={"mode": _FUSION[best.view]})
        config = config.model_copy(update={"fusion": fusion})
    metrics = {**recipe.metrics, **tested_alone}
    if best.view != "federated":
        # The card of one model tells the results of that one.
        metrics = {name: value for name, value in metrics.items() if name.startswith(f"{best.view}/")}
    return replace(recipe, config=config, lineage=lineage, note=best.words(), metrics=metrics)
