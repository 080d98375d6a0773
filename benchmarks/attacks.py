"""Hostile clients: what part of the ensemble they get, and what a round that they attack costs the global model.

Ten clients train honestly up to a round; in it some of them send something else. The honest ones' representations of
that round are the same for every attack and defence, so that only what is compared differs. Each repeat is a seed.
Shape legend: N public samples, D embedding dimension.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Clock, Ratio, Report
from fedafd.algorithm.centring import centre, public_mean
from fedafd.domain.errors import RepresentationError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.presets import merged
from fedafd.simulation.data import load_run_data
from fedafd.simulation.experiment import ExperimentConfig, read_experiment
from fedafd.simulation.federation import Federation, FederationProgress, SimulatedClient

Rows = NDArray[np.float32]
Attack = Callable[[Rows, Rows, np.random.Generator], Rows]
"""From a client's own rows and the global ones, as they are compared, [N, D] each."""

_DEFENCES: dict[str, dict[str, Any]] = {
    "none": {"weight_cap": 1.0, "leave_out_copies": False},
    "cap": {"leave_out_copies": False},
    "default": {},
}
_T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Student's t of a two-sided 95 % interval, by the number of seeds."""
_TINY: dict[str, Any] = {
    "embedding_dim": 16,
    "image_encoder": {
        "image_size": 16,
        "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    },
    "text_encoder": {"max_tokens": 8, "options": {"embedding_size": 8, "hidden_size": 8}},
    "server": {"batch_size": 16},
    "client": {"local_epochs": 1},
    "distillation": {"start_round": 1},
}


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


@dataclass(frozen=True)
class _Seed:
    """One seed's honest federation, at the round that is attacked."""

    federations: Mapping[str, Federation]
    number: int
    prepared: Any
    uploads: Mapping[str, Mapping[Modality, Rows]]


@dataclass(frozen=True)
class _Outcome:
    """Of one attack under one defence: the attackers' largest weight in a modality, rsum, honest clients left out."""

    weight: float
    rsum: float
    wronged: int


def run(*, tiny: bool, repeats: int, clock: Clock, data: Path | None = None) -> list[Report]:
    """`data`: the folder of the real cuts (docs/data.md); generated data without it. `repeats`: seeds."""
    del clock  # nothing is timed
    seeds = [_honest(_experiment(tiny=tiny, seed=seed, data=data)) for seed in range(repeats)]
    calm = {name: [_outcome(seed, name, seed.uploads, ()) for seed in seeds] for name in _DEFENCES}
    reports = [_report("nobody", calm, calm)]
    for attack in ATTACKS:
        for share in (0.1, 0.3):
            done = {
                name: [_attacked(seed, number, name, attack, share) for number, seed in enumerate(seeds)]
                for name in _DEFENCES
            }
            case = f"{attack}, {share:.0%} of the clients"
            known = {name: [each for each in found if each is not None] for name, found in done.items()}
            if not all(known.values()):
                reports.append(Report("attacks", case, skipped="the aggregator refuses such an upload"))
            else:
                reports.append(_report(case, known, calm))
    return reports


def _experiment(*, tiny: bool, seed: int, data: Path | None) -> ExperimentConfig:
    counts = (
        dict.fromkeys(ClientKind, 2) | {ClientKind.PAIR: 3}
        if tiny
        else {
            ClientKind.IMAGE: 3,
            ClientKind.TEXT: 3,
            ClientKind.PAIR: 4,
        }
    )
    federation: dict[str, Any] = {"preset": "small", "server": {"initial_passes": 1 if tiny else 20, "passes": 2}}
    if tiny:
        federation = merged(federation, _TINY)
    size = 24 if tiny else 400
    public: dict[str, Any] = {
        "adapter": "shapes",
        "options": {"num_train": size, "num_val": 8, "num_test": 8 if tiny else 200},
    }
    sources: dict[ClientKind, dict[str, Any]] = {
        kind: {"adapter": "shapes", "options": {"num_train": size, "num_val": 8, "num_test": 8, "seed": place + 1}}
        for place, kind in enumerate(ClientKind)
    }
    if data is not None:
        public = {"adapter": "flickr", "path": "flickr8k", "options": {"role": "public", "limit": 500}}
        sources = {
            ClientKind.IMAGE: {"adapter": "cifar100", "path": "cifar100", "parts": 12},
            ClientKind.TEXT: {"adapter": "ag-news", "path": "ag_news_csv", "parts": 36},
            ClientKind.PAIR: {"adapter": "flickr", "path": "flickr8k", "parts": 8, "options": {"role": "private"}},
        }
    clients = [{"kind": kind.value, "count": counts[kind]} | sources[kind] for kind in ClientKind]
    values = {
        "rounds": 1 if tiny else 3,
        "seeds": [seed],
        "federation": federation,
        "public": public,
        "clients": clients,
    }
    values |= {"strategies": {"fedafd": {}}, "scenarios": {"skewed": {"scheme": "dirichlet", "alpha": 0.5}}}
    return read_experiment(None, values, data)


def _honest(experiment: ExperimentConfig) -> _Seed:
    key = experiment.runs()[0]
    public, clients, _ = load_run_data(experiment, key)
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
    return _Seed(federations, before.round_number, prepared, before.uploads)


def _attacked(seed: _Seed, number: int, defence: str, attack: str, share: float) -> _Outcome | None:
    """None where the upload is refused."""
    federation, rng = seed.federations[defence], np.random.default_rng(number)
    bad = _coalition(federation.clients, share)
    uploads = dict(seed.uploads)
    for name in bad:
        rows = {m: ATTACKS[attack](own, _compared(seed, m), rng) for m, own in uploads[name].items()}
        try:
            uploads[name] = federation.as_sent(tuple(rows), rows)
        except RepresentationError:
            return None
    return _outcome(seed, defence, uploads, bad)


def _coalition(clients: Sequence[SimulatedClient], share: float) -> list[str]:
    """A pair client, which reaches both modalities; with three in ten a client of each kind."""
    kinds = (ClientKind.PAIR,) if share < 0.2 else tuple(ClientKind)
    return [next(client.name for client in clients if client.kind is kind) for kind in kinds]


def _compared(seed: _Seed, modality: Modality) -> Rows:
    global_ND = torch.from_numpy(seed.prepared.representations[modality])
    rows: Rows = centre(global_ND, public_mean(global_ND)).numpy()
    return rows


def _outcome(seed: _Seed, defence: str, uploads: Mapping[str, Mapping[Modality, Rows]], bad: Sequence[str]) -> _Outcome:
    federation = seed.federations[defence]
    state, contributions = federation.distilled(seed.prepared, seed.number, uploads)
    weights = [sum(each[name].weight for name in bad if name in each) for each in contributions.values()]
    wronged = {name for each in contributions.values() for name, part in each.items() if part.left_out} - set(bad)
    return _Outcome(max(weights), federation.evaluate_server(state)["rsum"], len(wronged))


def _report(case: str, done: Mapping[str, Sequence[_Outcome]], calm: Mapping[str, Sequence[_Outcome]]) -> Report:
    ratios: list[Ratio] = []
    facts: dict[str, str | int] = {}
    for name, outcomes in done.items():
        ours = name == "default"
        # Of 600, the sum of six recalls: a point of recall is six of them.
        falls = [(quiet.rsum - each.rsum) / 6 for quiet, each in zip(calm[name], outcomes, strict=True)]
        ratios.append(Ratio(f"{name}: weight", max(each.weight for each in outcomes), at_most=0.35 if ours else None))
        ratios.append(Ratio(f"{name}: points of recall lost", statistics.mean(falls), at_most=2.0 if ours else None))
        facts[f"{name}: 95 % of points lost"] = _interval(falls)
        facts[f"{name}: honest left out"] = sum(each.wronged for each in outcomes)
    return Report("attacks", case, ratios=ratios, facts=facts)


def _interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "one seed"
    half = _T_95.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values) - half:.2f} to {statistics.mean(values) + half:.2f}"
