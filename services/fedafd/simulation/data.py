"""The data of a run: the public set and each client's share, decoded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from fedafd.datasets import fingerprint_of, load_client_data, load_public_data
from fedafd.datasets.partition import share_of
from fedafd.datasets.pixels import KeptImages
from fedafd.datasets.samples import ClientData, PairSplit, Split, TextSplit
from fedafd.domain.config import PartitionConfig
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.seeds import derive_seed
from fedafd.simulation.experiment import ClientGroup, ExperimentConfig, RunKey
from fedafd.simulation.federation import SimulatedClient

__all__ = ["PUBLIC_SET", "Prints", "RunData", "data_prints", "load_run_data"]

PUBLIC_SET, _SPLITS = "the public set", ("train", "val", "test")
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
    for index, (group, whole) in enumerate(zip(experiment.clients, groups, strict=True)):
        clients += _clients(experiment, key, index, group, whole)
    return RunData({name: _kept_in_memory(split) for name, split in public.items()}, clients, prints)


def data_prints(experiment: ExperimentConfig) -> Prints:
    """Fingerprints of all data of an experiment, as they are now. Raises DataError, ConfigurationError."""
    return _prints(experiment, *_load(experiment))


def _load(experiment: ExperimentConfig) -> tuple[dict[str, PairSplit], list[ClientData]]:
    source = experiment.public
    with _of(PUBLIC_SET):
        public = load_public_data(source.adapter, source.path, source.options)
    groups = []
    for index, group in enumerate(experiment.clients):
        with _of(_named(index, group)):
            groups.append(load_client_data(group.adapter, group.path, group.kind, group.options))
    for name in _SPLITS:
        if not len(public[name]):
            raise DataError(f"{PUBLIC_SET} ({source.adapter}): the split {name} has no sample; a simulation needs one")
    for index, (group, data) in enumerate(zip(experiment.clients, groups, strict=True)):
        _check_group(index, group, data)
    return public, groups


@contextmanager
def _of(source: str) -> Iterator[None]:
    """Say in an error whose data it is about."""
    try:
        yield
    except (ConfigurationError, DataError) as error:
        kind = DataError if isinstance(error, DataError) else ConfigurationError
        raise kind(f"{source}: {error}") from error


def _check_group(index: int, group: ClientGroup, data: ClientData) -> None:
    """Raise DataError where a client would have nothing to train on, to choose by or to be tested on."""
    parts = group.parts or group.count
    if len(data.train) < parts:
        raise DataError(
            f"{_named(index, group)}: {len(data.train)} training samples for {parts} parts:"
            f" {_client(index, group, parts - 1)} would have none; lower count or parts, or give more data"
        )
    for name, use in (("val", "rounds and gates are chosen on it"), ("test", "results are measured on it")):
        if not len(getattr(data, name)):
            raise DataError(f"{_named(index, group)}: the split {name} has no sample, and {use}")


def _named(index: int, group: ClientGroup) -> str:
    return f"clients[{index}] ({group.kind.value}, {group.adapter})"


def _client(number: int, group: ClientGroup, index: int) -> str:
    return f"{group.kind.value}-{number}-{index:03d}"


def _prints(experiment: ExperimentConfig, public: Mapping[str, PairSplit], groups: Sequence[ClientData]) -> Prints:
    whole = ClientData(ClientKind.PAIR, public["train"], public["val"], public["test"])
    prints = {PUBLIC_SET: _print(whole)}
    for index, (group, data) in enumerate(zip(experiment.clients, groups, strict=True)):
        prints[_named(index, group)] = _print(data)
    return prints


def _print(data: ClientData) -> dict[str, Any]:
    samples = {name: len(getattr(data, name)) for name in _SPLITS}
    return {"fingerprint": fingerprint_of(data), "samples": samples}


def _clients(
    experiment: ExperimentConfig, key: RunKey, group_index: int, group: ClientGroup, whole: ClientData
) -> list[SimulatedClient]:
    whole = replace(whole, val=_kept_in_memory(whole.val), test=_kept_in_memory(whole.test))
    scenario = experiment.scenarios[key.scenario]
    clients = []
    for index in range(group.count):
        spec = PartitionConfig(
            scheme=scenario.scheme,
            alpha=scenario.alpha,
            num_clients=group.parts or group.count,
            index=index,
            seed=derive_seed(key.seed, group_index, "partition") % 2**32,
        )
        share = share_of(whole.train, spec)
        if not len(share):
            raise DataError(
                f"scenario {key.scenario}, seed {key.seed}: {_client(group_index, group, index)} has no training"
                " sample; lower the count of clients, or raise alpha"
            )
        clients.append(
            SimulatedClient(
                name=_client(group_index, group, index),
                kind=group.kind,
                data=replace(whole, train=_kept_in_memory(share)),
                image_encoder=group.image_encoder,
                text_encoder=group.text_encoder,
                task=group.task,
                dp=group.dp,
            )
        )
    return clients


def _kept_in_memory(split: S) -> S:
    if isinstance(split, TextSplit):
        return split
    return replace(split, images=KeptImages(split.images))
