"""The data of a run: the public set and each client's share, decoded once."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from fedafd.datasets import load_client_data, load_public_data
from fedafd.datasets.partition import share_of
from fedafd.datasets.pixels import KeptImages
from fedafd.datasets.samples import PairSplit, Split, TextSplit
from fedafd.domain.config import PartitionConfig
from fedafd.domain.seeds import derive_seed
from fedafd.simulation.experiment import ClientGroup, ExperimentConfig, RunKey
from fedafd.simulation.federation import SimulatedClient

__all__ = ["load_run_data"]

S = TypeVar("S", bound=Split)


def load_run_data(experiment: ExperimentConfig, key: RunKey) -> tuple[dict[str, PairSplit], list[SimulatedClient]]:
    """The public set's splits and the clients of one run. Raises DataError, ConfigurationError."""
    source = experiment.public
    splits = load_public_data(source.adapter, source.path, source.options)
    public = {name: _held(split) for name, split in splits.items()}
    clients: list[SimulatedClient] = []
    for place, group in enumerate(experiment.clients):
        clients += _group(experiment, key, place, group)
    return public, clients


def _group(experiment: ExperimentConfig, key: RunKey, place: int, group: ClientGroup) -> list[SimulatedClient]:
    whole = load_client_data(group.adapter, group.path, group.kind, group.options)
    whole = replace(whole, val=_held(whole.val), test=_held(whole.test))
    scenario = experiment.scenarios[key.scenario]
    made = []
    for index in range(group.count):
        spec = PartitionConfig(
            scheme=scenario.scheme,
            alpha=scenario.alpha,
            num_clients=group.parts or group.count,
            index=index,
            seed=derive_seed(key.seed, place, "partition") % 2**32,
        )
        made.append(
            SimulatedClient(
                name=f"{group.kind.value}-{place}-{index:03d}",
                kind=group.kind,
                data=replace(whole, train=_held(share_of(whole.train, spec))),
                image_encoder=group.image_encoder,
                text_encoder=group.text_encoder,
            )
        )
    return made


def _held(split: S) -> S:
    if isinstance(split, TextSplit):
        return split
    return replace(split, images=KeptImages(split.images))
