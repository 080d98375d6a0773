"""Hostile clients: what part of the ensemble they get, and what a round that they attack costs the global model.

Ten clients train honestly up to a round; in it some of them send something else. The honest ones' representations of
that round are the same for every attack and defence, so that only what is compared differs. Each repeat is a seed.
Shape legend: N public samples, D embedding dimension.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.attack_settings import SETTINGS, Setting
from benchmarks.backdoor import Backdoor, Opened, chosen
from benchmarks.measure import Clock, Ratio, Report, interval_95
from fedafd.algorithm.centring import centre, public_mean
from fedafd.datasets.samples import PairSplit
from fedafd.domain.contributions import Contribution
from fedafd.domain.errors import RepresentationError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.simulation.data import load_run_data
from fedafd.simulation.experiment import ExperimentConfig
from fedafd.simulation.federation import Federation, FederationProgress, SimulatedClient

Rows = NDArray[np.float32]
Attack = Callable[[Rows, Rows, np.random.Generator], Rows]
"""From a client's own rows and the global ones, as they are compared, [N, D] each."""

_NONE = "none"
_DEFENCES: dict[str, dict[str, Any]] = {
    _NONE: {"weight_cap": 1.0, "leave_out_copies": False},
    "default": {},
    "strict": {"weight_cap": "strict"},
    "trimmed": {"trimmed_share": 0.3},
}
_NOBODY = "nobody"
_SHARES = (0.1, 0.3)
_MOST_TESTED = 300
"""Pairs of the test split: losses are of the same ones with and without an attack."""


def _unit(rows: NDArray[Any]) -> Rows:
    unit: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


ATTACKS: dict[str, Attack] = {
    "copy": lambda own, given, rng: given,
    "copy and another sample": lambda own, given, rng: _unit(given + 0.9 * given[rng.permutation(len(given))]),
    "copy and its own": lambda own, given, rng: _unit(given + 0.9 * own),
    "permuted": lambda own, given, rng: own[rng.permutation(len(own))],
    "noise": lambda own, given, rng: _unit(rng.normal(size=own.shape)),
    "sign flip": lambda own, given, rng: -own,
    "global sign flip": lambda own, given, rng: -given,
    "constant": lambda own, given, rng: np.repeat(_unit(own.mean(axis=0, keepdims=True)), len(own), axis=0),
    "scaled": lambda own, given, rng: 10 * own,
}
BACKDOORS = {"backdoor": False, "backdoor and copy": True}
"""By whether the planted rows have the global ones mixed in."""


@dataclass(frozen=True)
class _Seed:
    """One seed's honest federation, at the round that is attacked."""

    federations: Mapping[str, Federation]
    number: int
    prepared: Any
    uploads: Mapping[str, Mapping[Modality, Rows]]
    backdoor: Backdoor | None


@dataclass(frozen=True)
class _Outcome:
    """Of one attack under one defence."""

    weight: float
    """The attackers' largest in a modality."""
    rsum: float
    wronged: int
    """Honest clients that were left out."""
    opened: Opened | None
    unusual: float
    """The smallest weight of an honest client, in equal shares."""


Found = dict[str, dict[str, list["_Outcome"]]]
"""By attack and defence, of each seed. An attack whose upload is refused has none."""


def run(
    *,
    tiny: bool,
    repeats: int,
    clock: Clock,
    data: Path | None = None,
    weights: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
) -> list[Report]:
    """`data`: the folder of the real cuts (docs/data.md); generated data without it. `repeats`: seeds.

    `settings`: by name; those that need pretrained `weights` are left out where there are none.
    """
    del clock  # nothing is timed
    reports: list[Report] = []
    for setting in SETTINGS:
        if setting.name not in (settings or [each.name for each in SETTINGS]):
            continue
        if setting.is_real and (data is None or tiny):
            continue
        if setting.is_pretrained and not weights:
            reports.append(Report("attacks", setting.name, skipped="it needs --image-weights and --text-weights"))
            continue
        found: Found = {}
        for seed in range(repeats):
            honest = _honest(setting.experiment(tiny=tiny, seed=seed, data=data, weights=weights))
            cases = _cases(setting, honest, tiny=tiny)
            _attack_all(honest, seed, cases, found)
            _tell(setting, seed, found)
        reports += [_report(setting, case, done, found[_NOBODY]) for case, done in found.items()]
    return reports


def _cases(setting: Setting, seed: _Seed, *, tiny: bool) -> list[tuple[str, float]]:
    """Attacks, and the share of the clients that make them."""
    if not setting.is_attacked:
        return []
    planted = () if seed.backdoor is None else tuple(BACKDOORS)
    attacks = ("copy", "scaled") if tiny else tuple(ATTACKS)
    return [(attack, share) for attack in (*attacks, *planted) for share in (_SHARES[-1:] if tiny else _SHARES)]


def _attack_all(seed: _Seed, number: int, cases: Sequence[tuple[str, float]], found: Found) -> None:
    def note(case: str, made: Mapping[str, _Outcome | None]) -> None:
        for defence in _DEFENCES:
            kept = found.setdefault(case, {}).setdefault(defence, [])
            outcome = made[defence]
            if outcome is not None:
                kept.append(outcome)

    note(_NOBODY, {defence: _outcome(seed, defence, seed.uploads, ()) for defence in _DEFENCES})
    for attack, share in cases:
        made = {defence: _attacked(seed, number, defence, attack, share) for defence in _DEFENCES}
        note(f"{attack}, {share:.0%} of the clients", made)


def _tell(setting: Setting, seed: int, found: Found) -> None:
    """Seeds are long: what is known so far."""
    for case, done in found.items():
        last = {defence: outcomes[-1] for defence, outcomes in done.items() if outcomes}
        sys.stderr.write(f"attacks: {setting.name}, seed {seed}, {case}: {last}\n")


def _honest(experiment: ExperimentConfig) -> _Seed:
    key = experiment.runs()[0]
    public, clients, _ = load_run_data(experiment, key)
    public["test"] = public["test"].take(range(min(_MOST_TESTED, len(public["test"]))))
    config = experiment.federation_config(key)
    federations = {
        name: Federation(
            config.model_copy(update={"distillation": config.distillation.model_copy(update=values)}), public, clients
        )
        for name, values in _DEFENCES.items()
    }
    honest, before = federations["default"], FederationProgress()
    for _ in range(experiment.rounds):
        last, before = before, honest.run_round(before)
    # The last round once more as far as its distillation: the same seeds give the same bits.
    prepared = honest.prepared(last)
    return _Seed(federations, before.round_number, prepared, before.uploads, chosen(public, key.seed))


def _attacked(seed: _Seed, number: int, defence: str, attack: str, share: float) -> _Outcome | None:
    """None where the upload is refused."""
    federation, rng = seed.federations[defence], np.random.default_rng(number)
    bad = _coalition(federation.clients, share)
    uploads, given = dict(seed.uploads), {modality: _compared(seed, modality) for modality in Modality}
    for name in bad:
        if attack in BACKDOORS:
            assert seed.backdoor is not None
            mixed = BACKDOORS[attack]
            rows = {m: seed.backdoor.planted(m, own, given, mixed=mixed) for m, own in uploads[name].items()}
        else:
            rows = {m: ATTACKS[attack](own, given[m], rng) for m, own in uploads[name].items()}
        try:
            uploads[name] = federation.as_sent(tuple(rows), rows)
        except RepresentationError:
            return None
    return _outcome(seed, defence, uploads, bad)


def _coalition(clients: Sequence[SimulatedClient], share: float) -> list[str]:
    """Pair clients first, which reach both modalities; with three in ten a client of each kind, where there are."""
    if share < 0.2:
        return [next(client.name for client in clients if client.kind is ClientKind.PAIR)]
    first = [next((c.name for c in clients if c.kind is kind), None) for kind in ClientKind]
    pairs = [client.name for client in clients if client.kind is ClientKind.PAIR]
    found = [name for name in first if name is not None]
    return [*found, *(name for name in pairs if name not in found)][: max(3, round(share * len(clients)))]


def _compared(seed: _Seed, modality: Modality) -> Rows:
    global_ND = torch.from_numpy(seed.prepared.representations[modality])
    rows: Rows = centre(global_ND, public_mean(global_ND)).numpy()
    return rows


def _outcome(seed: _Seed, defence: str, uploads: Mapping[str, Mapping[Modality, Rows]], bad: Sequence[str]) -> _Outcome:
    federation = seed.federations[defence]
    state, contributions = federation.distilled(seed.prepared, seed.number, uploads)
    weights = [sum(each[name].weight for name in bad if name in each) for each in contributions.values()]
    wronged = {name for each in contributions.values() for name, part in each.items() if part.left_out} - set(bad)
    public: Mapping[str, PairSplit] = federation.public
    opened = None if seed.backdoor is None else seed.backdoor.opened(federation.config, state, public)
    rsum, unusual = federation.evaluate_server(state)["rsum"], min(map(_smallest_share, contributions.values()))
    return _Outcome(max(weights), rsum, len(wronged), opened, unusual)


def _smallest_share(contributions: Mapping[str, Contribution]) -> float:
    return min(each.weight for each in contributions.values()) * len(contributions)


def _report(
    setting: Setting, case: str, done: Mapping[str, Sequence[_Outcome]], calm: Mapping[str, Sequence[_Outcome]]
) -> Report:
    report = Report("attacks", f"{setting.name}: {case}")
    if not all(done.values()):
        report.skipped = "the aggregator refuses such an upload"
        return report
    for name, outcomes in done.items():
        ours, facts = name != _NONE, report.facts
        # Of 600, the sum of six recalls: a point of recall is six of them.
        falls = [(quiet.rsum - each.rsum) / 6 for quiet, each in zip(calm[name], outcomes, strict=True)]
        report.ratios += [
            Ratio(f"{name}: weight", max(each.weight for each in outcomes), at_most=0.35 if ours else None),
            Ratio(f"{name}: points of recall lost", statistics.mean(falls), at_most=2.0 if ours else None),
        ]
        facts[f"{name}: 95 % of points lost"] = interval_95(falls)
        facts[f"{name}: honest left out"] = sum(each.wronged for each in outcomes)
        opened = [each.opened for each in outcomes if each.opened is not None]
        if opened and case.startswith((*BACKDOORS, _NOBODY)):
            first = [each.first for each in opened]
            goal = 5.0 if ours and case != _NOBODY else None
            report.ratios.append(Ratio(f"{name}: % of tries that succeed", statistics.mean(first), at_most=goal))
            facts[f"{name}: 95 % of tries"] = interval_95(first)
            facts[f"{name}: % among the first ten"] = round(statistics.mean(each.among_ten for each in opened), 1)
        if case == _NOBODY:
            facts[f"{name}: rsum"] = round(statistics.mean(each.rsum for each in outcomes), 1)
            facts[f"{name}: smallest weight in equal shares"] = round(min(each.unusual for each in outcomes), 2)
    if case == _NOBODY:
        for name in [each for each in _DEFENCES if each != _NONE]:
            costs = [(free.rsum - ours.rsum) / 6 for free, ours in zip(calm[_NONE], calm[name], strict=True)]
            report.ratios.append(Ratio(f"{name}: points of recall that it costs", statistics.mean(costs)))
            report.facts[f"{name}: 95 % of what it costs"] = interval_95(costs)
    return report
