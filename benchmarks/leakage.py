"""What attacks draw from representations that sites release: plainly, with noise on them, and trained by DP-SGD.

An image, a text and a pair client train for some rounds; then `fedafd audit leakage`'s attacks look at the last
delivery of each. All three ways have the same data, encoders and seeds. Of the labels only a part is the task's, so
that the rest is an attribute that no task was told. Each repeat is a seed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Clock, Ratio, Report, interval_95
from benchmarks.tiny import TINY_FEDERATION
from fedafd.agent.noise import noised
from fedafd.datasets import load_client_data, load_public_data
from fedafd.datasets.partition import partition_indices
from fedafd.datasets.samples import ClientData, PairSplit, Split
from fedafd.domain.config import DpConfig, EncoderConfig, FederationConfig, PartitionConfig, parse_federation_config
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.presets import merged
from fedafd.domain.seeds import derive_seed
from fedafd.learning.attribute_leakage import Attributed, attribute_leakage
from fedafd.learning.audited_samples import global_features, of_each_text, topic_values
from fedafd.learning.leakage import Rows, label_leakage, membership_leakage
from fedafd.learning.privacy_accountant import epsilon_of_rounds
from fedafd.simulation.federation import Federation, FederationProgress, SimulatedClient

_NOISE = 0.5
_DELTA = 1e-4
_TOPICS = {True: ("red", "blue"), False: ("dog", "child", "water")}
"""Of pairs, by whether they are generated."""
_TASK_CLASSES = {ClientKind.IMAGE: 10, ClientKind.TEXT: 2}
"""A class's number modulo that is the task's label, what is left of it the attribute."""
_RESAMPLES = 100
"""Intervals over seeds are what is told; the bootstrap of each is not looked at."""


@dataclass(frozen=True)
class _Size:
    rounds: int
    samples: dict[ClientKind, int]
    epsilon: float
    federation: dict[str, Any]


_USUAL = _Size(
    rounds=2,
    samples={ClientKind.IMAGE: 400, ClientKind.TEXT: 400, ClientKind.PAIR: 200},
    epsilon=8.0,
    federation={
        "embedding_dim": 64,
        "image_encoder": {"image_size": 32},
        "text_encoder": {"max_tokens": 24, "options": {"embedding_size": 64, "hidden_size": 64}},
        "server": {"initial_passes": 12, "passes": 2, "learning_rate": 2e-3},
        "client": {"local_epochs": 5, "vocabulary": "public"},
        # What leaves does not depend on the branch that trains alone.
        "fusion": {"alone_branch": False},
    },
)
_TINY = _Size(
    rounds=1,
    samples=dict.fromkeys(ClientKind, 32),
    epsilon=500.0,
    federation=merged(TINY_FEDERATION, {"client": {"vocabulary": "public"}}),
)
_OF_SITES = {
    # Without batch normalisation, and with a rule for each operator: DP-SGD takes both.
    Modality.IMAGE: {
        "architecture": "convnextv2",
        "image_size": 32,
        "options": {"hidden_sizes": [16, 32, 64], "depths": [1, 1, 1], "num_stages": 3, "patch_size": 2},
    },
    Modality.TEXT: {
        "architecture": "bert",
        "max_tokens": 24,
        "options": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
    },
}


def run(*, tiny: bool, repeats: int, clock: Clock, data: Path | None = None) -> list[Report]:
    """`data`: the folder of the real cuts (docs/data.md); generated data without it. `repeats`: seeds."""
    del clock  # nothing is timed
    size, found = _TINY if tiny else _USUAL, dict[str, list[dict[str, float]]]()
    for seed in range(repeats):
        for case, figures in _of_seed(size, seed, data).items():
            found.setdefault(case, []).append(figures)
        told = {case: {name: round(value, 3) for name, value in each[-1].items()} for case, each in found.items()}
        sys.stderr.write(f"leakage: seed {seed}: {told}\n")
    return [_report(case, figures) for case, figures in found.items()]


class _Site(NamedTuple):
    """A client, and what an audit of it asks for beside its data."""

    client: SimulatedClient
    attributes: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Of the training samples, and of those of val and test."""
    topics: tuple[str, ...] = ()

    @property
    def others(self) -> tuple[Split, Split]:
        return self.client.data.val, self.client.data.test


def _of_seed(size: _Size, seed: int, data: Path | None) -> dict[str, dict[str, float]]:
    public, sites = _loaded(size, seed, data)
    config = parse_federation_config({"name": "audited", "preset": "small", "seed": seed} | size.federation)
    private_sites = [
        site._replace(client=replace(site.client, dp=_budgeted(size, config, site.client)))
        for site in sites
        if site.client.kind in _TASK_CLASSES
    ]
    # The server's first stage is the same in both.
    with tempfile.TemporaryDirectory(prefix="fedafd-leakage-") as folder:
        plain, private = (
            _trained(size, config, public, [site.client for site in trained], Path(folder))
            for trained in (sites, private_sites)
        )
    found = {}
    for site in sites:
        released = plain.uploads[site.client.name]
        found[f"{site.client.name}, plain"] = _attacked(plain, site, released, seed)
        found[f"{site.client.name}, noise {_NOISE}"] = _attacked(plain, site, noised(released, _NOISE), seed)
    for site in private_sites:
        sent = private.uploads[site.client.name]
        found[f"{site.client.name}, DP-SGD"] = _attacked(private, site, sent, seed)
    return found


def _budgeted(size: _Size, config: FederationConfig, client: SimulatedClient) -> DpConfig:
    """The least noise, in steps of a quarter, with which all rounds stay within the budget."""
    values: dict[str, Any] = {"samples": _round(len(client.data.train)), "delta": _DELTA, "clip": 1.0}
    multiplier = 1.0
    while True:
        dp = DpConfig(epsilon=size.epsilon, noise_multiplier=multiplier, **values)
        if epsilon_of_rounds(dp, config, client.kind, size.rounds) <= size.epsilon:
            return dp
        multiplier += 0.25


def _round(count: int) -> int:
    """As a site would state it."""
    return max(10, round(count, -1))


def _loaded(size: _Size, seed: int, data: Path | None) -> tuple[dict[str, PairSplit], list[_Site]]:
    generated = {"num_train": 120, "num_val": 60, "num_test": 60}
    sources: dict[ClientKind, tuple[str, Path | None, dict[str, Any]]] = {
        kind: ("shapes", None, generated | {"seed": place + 1}) for place, kind in enumerate(ClientKind)
    }
    public = load_public_data("shapes", None, generated | {"num_train": 48})
    if data is not None:
        sources = {
            ClientKind.IMAGE: ("cifar100", data / "cifar100", {}),
            ClientKind.TEXT: ("ag-news", data / "ag_news_csv", {}),
            ClientKind.PAIR: ("flickr", data / "flickr8k", {"role": "private"}),
        }
        public = load_public_data("flickr", data / "flickr8k", {"role": "public", "limit": 300})
    topics = _TOPICS[data is None]
    return public, [
        _site(size, kind, load_client_data(adapter, path, kind, options), topics, seed)
        for kind, (adapter, path, options) in sources.items()
    ]


def _site(size: _Size, kind: ClientKind, whole: ClientData, topics: tuple[str, ...], seed: int) -> _Site:
    """One share of the data, skewed by the task's classes where it has any."""
    splits = (whole.train, whole.val, whole.test)
    words: tuple[str, ...] = ()
    if kind in _TASK_CLASSES:
        classes = _TASK_CLASSES[kind]
        given = [split.labels for split in splits if not isinstance(split, PairSplit)]
        train, val, test = (
            replace(split, labels=split.labels % classes) for split in splits if not isinstance(split, PairSplit)
        )
        names = tuple(f"task class {number}" for number in range(classes))
        whole = ClientData(kind, train, val, test, names)
        labels, attributes = train.labels.astype(np.int64), [(each // classes).astype(np.int64) for each in given]
    else:
        labels, attributes = np.zeros(len(whole.train), dtype=np.int64), [topic_values([s], topics) for s in splits]
        words = topics
    parts = max(1, len(labels) // size.samples[kind])
    spec = PartitionConfig(
        scheme="dirichlet" if kind in _TASK_CLASSES else "iid",
        alpha=0.5,
        num_clients=parts,
        index=seed % parts,
        seed=derive_seed(seed, kind.value, "share") % 2**32,
    )
    own = partition_indices(labels, spec)[: 2 * size.samples[kind]]
    image, text = (
        EncoderConfig.model_validate(_OF_SITES[m]) if m in kind.modalities else None
        for m in (Modality.IMAGE, Modality.TEXT)
    )
    client = SimulatedClient(
        name=kind.value,
        kind=kind,
        data=replace(whole, train=whole.train.take(own.tolist())),
        image_encoder=image,
        text_encoder=text,
    )
    return _Site(client, (attributes[0][own], np.concatenate(attributes[1:])), words)


def _trained(
    size: _Size, config: FederationConfig, public: Mapping[str, PairSplit], clients: list[SimulatedClient], kept: Path
) -> FederationProgress:
    federation, progress = Federation(config, public, clients, kept_stages=kept), FederationProgress()
    for number in range(1, size.rounds + 1):
        progress = federation.run_round(progress, evaluate_on="test" if number == size.rounds else "val")
    return progress


def _attacked(
    progress: FederationProgress, site: _Site, released: Mapping[Modality, Rows], seed: int
) -> dict[str, float]:
    """Advantages by attack, and how good the client's own branch is."""
    client, found = site.client, dict[str, float]()
    for modality in client.kind.modalities:
        known, rows = progress.representations[modality], released[modality]
        sides = ([client.data.train], site.others)
        inside, outside = (global_features(progress.bundles[modality], modality, side) for side in sides)
        told: dict[str, Any] = {"seed": seed, "resamples": _RESAMPLES}
        found[f"membership, {modality.value}"] = membership_leakage(rows, known, inside, outside, **told).advantage
        if client.kind in _TASK_CLASSES:
            labels = np.concatenate([each.labels for each in site.others if not isinstance(each, PairSplit)])
            assert not isinstance(client.data.train, PairSplit)
            seen = np.unique(labels)
            counts = np.array([(client.data.train.labels == each).sum() for each in seen], dtype=np.int64)
            prototypes = np.stack([outside[labels == each].mean(0) for each in seen])
            found["classes"] = label_leakage(rows, known, prototypes, counts, **told).advantage
        members, others = _attributed(progress.bundles[modality], modality, site, (inside, outside))
        attribute = attribute_leakage(rows, known, members, others, **told)
        if attribute is not None:
            found[f"attribute, {modality.value}"] = attribute.advantage
    metrics = progress.clients[client.name].metrics
    name = "local/rsum" if client.kind is ClientKind.PAIR else "local/acc1"
    return found | {name: metrics[name]}


def _attributed(
    bundle: bytes, modality: Modality, site: _Site, features: tuple[Rows, Rows]
) -> tuple[Attributed, Attributed]:
    """Training samples and others without their attribute: a topic's words are taken out of captions."""
    train, others = site.attributes
    sides = ([site.client.data.train], site.others)
    if modality is Modality.TEXT and site.topics:
        features = (
            global_features(bundle, modality, sides[0], topics=site.topics),
            global_features(bundle, modality, sides[1], topics=site.topics),
        )
        train, others = of_each_text(train, sides[0]), of_each_text(others, sides[1])
    return Attributed(features[0], train), Attributed(features[1], others)


def _report(case: str, figures: list[dict[str, float]]) -> Report:
    report = Report("leakage", case)
    for name in figures[0]:
        values = [each[name] for each in figures if name in each]
        report.ratios.append(Ratio(name, statistics.mean(values)))
        report.facts[f"{name}, 95 %"] = interval_95(values)
    return report
