"""What a classifier gains by two nets in place of one: two that train alone, from two seeds, and their pool.

It is the control of `fedafd`, whose pool holds a net that trains alone and one that is federated (docs/adr/0016). Data,
splits, seeds, encoders, epochs and rounds are those of the experiment `pretrained` for the same seed; the first net is
its `local`, bit for bit. Rounds and weights are chosen on the validation split, figures are of the test split.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import Clock, Ratio, Report, interval_95
from benchmarks.tiny import TINY_FEDERATION
from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.seeds import derive_seed
from fedafd.learning.alone import alone
from fedafd.learning.feature_cache import keep_features
from fedafd.learning.local_site import LocalSite, SplitName
from fedafd.learning.local_training import train_locally
from fedafd.learning.site_evaluation import SiteEvaluator
from fedafd.simulation.choice import RoundChoice
from fedafd.simulation.data import load_run_data
from fedafd.simulation.experiment import ExperimentConfig, RunKey, read_experiment
from fedafd.simulation.federation import SimulatedClient

_TABLE = Path(__file__).parents[1] / "docs" / "results" / "pretrained.csv"
"""What `fedafd` reached in the same experiment."""
_WAYS = ("one net", "two nets")
_CLASSIFIERS = (ClientKind.IMAGE, ClientKind.TEXT)
_TINY = {"preset": "small"} | TINY_FEDERATION


@dataclass(frozen=True)
class _Figure:
    """Accuracy in percent of one way in one run, the mean of a kind's clients."""

    scenario: str
    seed: int
    kind: ClientKind
    way: str
    accuracy: float


def run(
    *,
    tiny: bool,
    repeats: int,
    clock: Clock,
    data: Path | None = None,
    image_weights: Path | None = None,
    text_weights: Path | None = None,
) -> list[Report]:
    """`repeats`: seeds, from 0. `data`: the folder of the real cuts (docs/data.md)."""
    del clock  # nothing is timed
    if not tiny and (data is None or image_weights is None or text_weights is None):
        return [Report("two_nets", "pool", skipped="needs --data, --image-weights and --text-weights")]
    weights = {"image_encoder": str(image_weights), "text_encoder": str(text_weights)}
    experiment = _tiny() if tiny else read_experiment(None, _wanted(repeats), data, weights=weights)
    with tempfile.TemporaryDirectory() as folder:
        keep_features(Path(folder))  # each of a client's nets, in each round, takes those of the same frozen backbone
        try:
            figures = [figure for key in experiment.runs() for figure in _figures(experiment, key)]
        finally:
            keep_features(None)
    federated = {} if tiny else _federated(repeats)
    return [_report(kind, figures, federated) for kind in _CLASSIFIERS]


def _wanted(repeats: int) -> dict[str, Any]:
    return {"preset": "pretrained", "strategies": ["local"], "seeds": list(range(repeats))}


def _tiny() -> ExperimentConfig:
    options = {"num_train": 24, "num_val": 8, "num_test": 8}
    clients = [
        {"kind": kind.value, "count": 1, "adapter": "shapes", "options": options | {"seed": place + 1}}
        for place, kind in enumerate(_CLASSIFIERS)
    ]
    values = {"rounds": 2, "seeds": [0], "federation": _TINY, "clients": clients, "strategies": {"local": {}}}
    return read_experiment(None, values | {"public": {"adapter": "shapes", "options": options}}, None)


def _figures(experiment: ExperimentConfig, key: RunKey) -> Iterable[_Figure]:
    _, clients, _ = load_run_data(experiment, key)
    config = experiment.federation_config(key)
    for kind in _CLASSIFIERS:
        found = [_accuracies(config, client, experiment.rounds) for client in clients if client.kind is kind]
        for way in _WAYS:
            accuracy = statistics.mean(each[way] for each in found)
            print(
                f"two_nets: {key.scenario}, seed {key.seed}, {kind.value} clients, {way}: {accuracy:.2f} %", flush=True
            )
            yield _Figure(key.scenario, key.seed, kind, way, accuracy)


def _accuracies(config: FederationConfig, client: SimulatedClient, rounds: int) -> dict[str, float]:
    """Of a client's chosen rounds, by way."""
    states: dict[str, bytes | None] = {"train": None, "train again": None}
    choices: dict[str, RoundChoice] = {}
    chosen: dict[str, float] = {}
    for number in range(1, rounds + 1):
        sites = []
        for which, state in states.items():
            seed = derive_seed(config.seed, number, client.name, which)
            sites.append(_trained(config, client, state, seed, number))
            states[which] = sites[-1].state()
        nets = {split: [_logits(site, split) for site in sites] for split in ("val", "test")}
        first = sites[0]
        trained, labels = first.splits["train"].labels, first.splits["val"].labels
        weights = first.task.fit_pool(nets["val"], labels, trained)
        for way, shares in zip(_WAYS, ([1.0, 0.0], weights), strict=True):
            val, test = (_scored(first, split, nets[split], shares) for split in ("val", "test"))
            before = choices.get(way)
            choices[way] = RoundChoice(number, val[1]) if before is None else before.after(number, val[1])
            if choices[way].number == number:
                chosen[way] = test[0]
    return chosen


def _trained(
    config: FederationConfig, client: SimulatedClient, state: bytes | None, seed: int, number: int
) -> LocalSite:
    encoders = {Modality.IMAGE: client.image_encoder, Modality.TEXT: client.text_encoder}
    site = LocalSite(alone(config), client.kind, encoders, client.data, state, seed, "cpu", sent=None)
    train_locally(site, number)
    return site


def _logits(site: LocalSite, split: SplitName) -> Tensor:
    (rows,) = SiteEvaluator(site).features(split)["federated"].values()
    head: Any = site.model.head
    with torch.inference_mode():
        logits: Tensor = head(rows)
    return logits


def _scored(
    site: LocalSite, split: SplitName, nets: Sequence[Tensor], shares: Sequence[float]
) -> tuple[float, NDArray[np.float64]]:
    """Accuracy, and each sample's part of it; a net without a share is not asked."""
    asked = [(net, share) for net, share in zip(nets, shares, strict=True) if share > 0]
    pooled = site.task.pool([net for net, _ in asked], [share for _, share in asked])
    metrics, scores = site.task.score(pooled, site.splits[split].labels, site.splits["train"].labels)
    return metrics["acc1"], np.asarray(scores, dtype=np.float64)


def _federated(repeats: int) -> dict[tuple[ClientKind, int], float]:
    """Accuracy of `fedafd` by kind and seed, the mean of the scenarios."""
    with _TABLE.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["strategy"] == "fedafd" and int(row["seed"]) < repeats]
    return {
        (kind, seed): statistics.mean(float(row[f"{kind} acc1"]) for row in rows if int(row["seed"]) == seed)
        for kind in _CLASSIFIERS
        for seed in {int(row["seed"]) for row in rows}
    }


def _report(kind: ClientKind, figures: Sequence[_Figure], federated: Mapping[tuple[ClientKind, int], float]) -> Report:
    mine = [figure for figure in figures if figure.kind is kind]
    report = Report("two_nets", f"{kind} clients")
    for scenario in dict.fromkeys(figure.scenario for figure in mine):
        for way in _WAYS:
            found = [each.accuracy for each in mine if each.scenario == scenario and each.way == way]
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            report.facts[f"{scenario}: {way}, accuracy"] = f"{statistics.mean(found):.1f}{spread}"
    by_seed = {way: _by_seed(mine, way) for way in _WAYS}
    gains = [two - one for one, two in zip(*(by_seed[way].values() for way in _WAYS), strict=True)]
    report.ratios.append(Ratio("two nets minus one, points", statistics.mean(gains)))
    report.facts["95 % of two nets minus one"] = interval_95(gains)
    if federated:
        above = [federated[kind, seed] - accuracy for seed, accuracy in by_seed["two nets"].items()]
        report.ratios.append(Ratio("fedafd minus two nets, points", statistics.mean(above)))
        report.facts["95 % of fedafd minus two nets"] = interval_95(above)
    return report


def _by_seed(figures: Sequence[_Figure], way: str) -> dict[int, float]:
    """The mean of the scenarios."""
    seeds = dict.fromkeys(figure.seed for figure in figures)
    return {
        seed: statistics.mean(each.accuracy for each in figures if each.seed == seed and each.way == way)
        for seed in seeds
    }
