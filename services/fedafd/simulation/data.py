"""The data of a run: the public set and each client's share, decoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from fedafd.datasets import fingerprint_of, load_client_data, load_public_data
from fedafd.datasets.partition import share_of
from fedafd.datasets.pixels import KeptImages
from fedafd.datasets.samples import ClientData, PairSplit, Split, TextSplit
from fedafd.domain.config import PartitionConfig
from fedafd.domain.kinds import ClientKind
from fedafd.domain.seeds import derive_seed
from fedafd.simulation.experiment import ClientGroup, ExperimentConfig, RunKey
from fedafd.simulation.federation import SimulatedClient

__all__ = ["PUBLIC_SET", "Prints", "RunData", "data_prints", "load_run_data"]

PUBLIC_SET = "the public set"
Prints = Mapping[str, Mapping[str, Any]]
"""Of the public set and each group of clients: the fingerprint of their data, and the number of samples by split."""

S = TypeVar("S", bound=Split)


class RunData(NamedTuple):
    """What a run works on."""

    public: dict[str, PairSplit]
    clients: list[SimulatedClient]
    prints: Prints


def load_run_data(experiment: ExperimentConfig, key: RunKey) -> RunData:
    """The public set's splits and the clients of one run. Raises DataError, ConfigurationError."""
    public, groups = _load(experiment)
    prints = _prints(experiment, public, groups)
    clients: list[SimulatedClient] = []
    for place, (group, whole) in enumerate(zip(experiment.clients, groups, strict=True)):
        clients += _clients(experiment, key, place, group, whole)
    return RunData({name: _held(split) for name, split in public.items()}, clients, prints)


def data_prints(experiment: ExperimentConfig) -> Prints:
    """Fingerprints of all data of an experiment, as they are now. Raises DataError, ConfigurationError."""
    return _prints(experiment, *_load(experiment))


def _load(experiment: ExperimentConfig) -> tuple[dict[str, PairSplit], list[ClientData]]:
    source = experiment.public
    public = load_public_data(source.adapter, source.path, source.options)
    return public, [load_client_data(g.adapter, g.path, g.kind, g.options) for g in experiment.clients]


def _prints(experiment: ExperimentConfig, public: Mapping[str, PairSplit], groups: Sequence[ClientData]) -> Prints:
    whole = ClientData(ClientKind.PAIR, public["train"], public["val"], public["test"])
    found = {PUBLIC_SET: _print(whole)}
    for place, (group, data) in enumerate(zip(experiment.clients, groups, strict=True)):
        found[f"clients[{place}] ({group.kind.value}, {group.adapter})"] = _print(data)
    return found


def _print(data: ClientData) -> dict[str, Any]:
    samples = {name: len(getattr(data, name)) for name in ("train", "val", "test")}
    return {"fingerprint": fingerprint_of(data), "samples": samples}


def _clients(
    experiment: ExperimentConfig, key: RunKey, place: int, group: ClientGroup, whole: ClientData
) -> list[SimulatedClient]:
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
