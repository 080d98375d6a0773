"""Inputs and outputs of each kind of stage: the one place that knows the names under which they are stored and sent.

`T` is what stands for an artifact: an `ArtifactRef` in the aggregator, which plans; its bytes in the distiller, which
works. Names are part of the stored format: a round that was planned before an update goes on after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.kinds import Modality, UploadPurpose
from fedafd.domain.merge_tree import Branch

__all__ = [
    "BUNDLE",
    "GLOBAL_REPRESENTATIONS",
    "MODEL_FILE",
    "PUBLIC_SET",
    "PUBLIC_SET_MANIFEST",
    "PUBLIC_SET_SHARD",
    "SERVER_STATE",
    "WEIGHTS",
    "DistilInputs",
    "DistilOutputs",
    "EvaluateInputs",
    "EvaluateOutputs",
    "FoldInputs",
    "FoldOutputs",
    "MergeInputs",
    "PrepareInputs",
    "PrepareOutputs",
    "SharedOutputs",
    "WeighInputs",
    "WeighOutputs",
    "encoder_bundle",
    "find_sed_state",
    "is_client_representations",
    "is_global_representations",
    "merge_limit",
    "model_path",
    "sed_state_of",
    "sed_state_outputs",
    "server_state_ref",
]

T = TypeVar("T")

SERVER_STATE = "server-state"
WEIGHTS = "weights/"
"""Clients' weights by number, as inputs; averages by group, as outputs."""
GLOBAL_REPRESENTATIONS = "global-representations"
_PREPARED_REPRESENTATIONS = "representations"
"""The global representations as an output of PREPARE and as what a task tells a site to fetch."""
_CLIENT = UploadPurpose.REPRESENTATIONS.value
_STALE = "stale-representations/"
"""A client's representations of an earlier round; then how many rounds they are old."""
_SED = "sed-state"
_SHEET = "sed-sheet"
"""Of a fold: what weights are made of (fedafd.learning.weighing). Before a cohort position: an input of WEIGH."""
_LIMIT = "sed-limit"
BUNDLE = "encoder-bundle/"
"""Before a modality: a frozen global encoder."""
_MODEL = "model/"
MODEL_FILE = "model-file"
"""A file of a published or personalized model, under whichever path."""
PUBLIC_SET = "public-set/"
"""Before what a site is told to fetch of the public set."""
PUBLIC_SET_MANIFEST = f"{PUBLIC_SET}manifest"
PUBLIC_SET_SHARD = f"{PUBLIC_SET}shard"


def server_state_ref(key: str, sha256: str, size_bytes: int) -> ArtifactRef:
    """The server state that a model version left."""
    return {"key": key, "sha256": sha256, "size_bytes": size_bytes, "purpose": SERVER_STATE}


def encoder_bundle(modality: Modality) -> str:
    """Name of the frozen global encoder of a modality."""
    return f"{BUNDLE}{modality.value}"


def is_global_representations(name: str) -> bool:
    """Whether what a task names is the global representations."""
    return name == _PREPARED_REPRESENTATIONS


def is_client_representations(name: str) -> bool:
    """Whether an input is what a client sent, in this round or in an earlier one."""
    return name == _CLIENT or name.startswith(_STALE)


def model_path(name: str) -> str | None:
    """The path within the model folder of an output of EVALUATE that is a file of it; None for any other output."""
    return name.removeprefix(_MODEL) if name.startswith(_MODEL) else None


def sed_state_outputs(state: T) -> dict[str, T]:
    """The output of MERGE: a state of the ensemble."""
    return {_SED: state}


def sed_state_of(outputs: Mapping[str, T]) -> T:
    """The state of the ensemble among the outputs of FOLD or MERGE."""
    return outputs[_SED]


def find_sed_state(outputs: Mapping[str, T]) -> T | None:
    """The same; None where there is none."""
    return outputs.get(_SED)


def merge_limit(inputs: Mapping[str, T]) -> T | None:
    """What weights are capped by among the inputs of MERGE; None where they are not."""
    return inputs.get(_LIMIT)


@dataclass(frozen=True, kw_only=True)
class PrepareInputs(Generic[T]):
    """The state that the version before left; None in a federation's first round."""

    server_state: T | None

    def named(self) -> dict[str, T]:
        """By name."""
        return {} if self.server_state is None else {SERVER_STATE: self.server_state}

    @classmethod
    def of(cls, inputs: Mapping[str, T]) -> PrepareInputs[T]:
        """From names."""
        return cls(server_state=inputs.get(SERVER_STATE))


@dataclass(frozen=True, kw_only=True)
class SharedOutputs(Generic[T]):
    """What of PREPARE sites and folds read: the global representations I_g and T_g, and the frozen encoders.

    All that a region has of the upper federation's round.
    """

    global_representations: T
    encoder_bundles: Mapping[Modality, T]

    @classmethod
    def of(cls, outputs: Mapping[str, T]) -> SharedOutputs[T]:
        """From names."""
        return SharedOutputs(
            global_representations=outputs[_PREPARED_REPRESENTATIONS], encoder_bundles=_by_modality(outputs, BUNDLE)
        )

    def for_sites(self, modalities: tuple[Modality, ...]) -> dict[str, T]:
        """What a site with encoders of these modalities fetches, by name."""
        bundles = {encoder_bundle(modality): self.encoder_bundles[modality] for modality in modalities}
        return {_PREPARED_REPRESENTATIONS: self.global_representations} | bundles


@dataclass(frozen=True, kw_only=True)
class PrepareOutputs(SharedOutputs[T]):
    """The trained state as well."""

    server_state: T

    def named(self) -> dict[str, T]:
        """By name."""
        return {SERVER_STATE: self.server_state} | self.for_sites(tuple(self.encoder_bundles))

    @classmethod
    def of(cls, outputs: Mapping[str, T]) -> PrepareOutputs[T]:
        """From names."""
        return PrepareOutputs(
            server_state=outputs[SERVER_STATE],
            global_representations=outputs[_PREPARED_REPRESENTATIONS],
            encoder_bundles=_by_modality(outputs, BUNDLE),
        )


@dataclass(frozen=True, kw_only=True)
class FoldInputs(Generic[T]):
    """One client's representations, `age` rounds old, and the global ones that they are compared with."""

    client_representations: T
    global_representations: T
    age: int = 0

    def named(self) -> dict[str, T]:
        """By name."""
        name = f"{_STALE}{self.age}" if self.age else _CLIENT
        return {name: self.client_representations, GLOBAL_REPRESENTATIONS: self.global_representations}

    @classmethod
    def of(cls, inputs: Mapping[str, T]) -> FoldInputs[T]:
        """From names."""
        name = next(name for name in inputs if is_client_representations(name))
        age = int(name.removeprefix(_STALE)) if name.startswith(_STALE) else 0
        return cls(client_representations=inputs[name], global_representations=inputs[GLOBAL_REPRESENTATIONS], age=age)


@dataclass(frozen=True, kw_only=True)
class FoldOutputs(Generic[T]):
    """A state of the ensemble, and its sheet where weights are looked at before states merge."""

    state: T
    sheet: T | None = None

    def named(self) -> dict[str, T]:
        """By name."""
        return sed_state_outputs(self.state) | ({} if self.sheet is None else {_SHEET: self.sheet})

    @classmethod
    def of(cls, outputs: Mapping[str, T]) -> FoldOutputs[T]:
        """From names."""
        return cls(state=outputs[_SED], sheet=outputs.get(_SHEET))


@dataclass(frozen=True, kw_only=True)
class WeighInputs(Generic[T]):
    """The sheets of a modality by cohort position."""

    sheets: Mapping[int, T]

    def named(self) -> dict[str, T]:
        """By name."""
        return {f"{_SHEET}/{position}": sheet for position, sheet in self.sheets.items()}

    @classmethod
    def of(cls, inputs: Mapping[str, T]) -> WeighInputs[T]:
        """From names."""
        sheets = {int(position): sheet for position, sheet in _below(inputs, f"{_SHEET}/").items()}
        return cls(sheets=dict(sorted(sheets.items())))


@dataclass(frozen=True, kw_only=True)
class WeighOutputs(Generic[T]):
    """The limit, which merges need."""

    limit: T

    def named(self) -> dict[str, T]:
        """By name."""
        return {_LIMIT: self.limit}

    @classmethod
    def of(cls, outputs: Mapping[str, T]) -> WeighOutputs[T]:
        """From names."""
        return cls(limit=outputs[_LIMIT])


@dataclass(frozen=True, kw_only=True)
class MergeInputs(Generic[T]):
    """States of the ensemble, in the order of the tree, and the limit where clients' weights are capped.

    A state's name is its way from the node that is merged: its number among the children at each level.
    """

    states: tuple[Branch[T], ...]
    limit: T | None = None

    def named(self) -> dict[str, T]:
        """By name."""
        limit = {} if self.limit is None else {_LIMIT: self.limit}
        return dict(_ways(self.states, _SED)) | limit

    @classmethod
    def of(cls, inputs: Mapping[str, T]) -> MergeInputs[T]:
        """From names."""
        return cls(states=_branches(_below(inputs, f"{_SED}/")), limit=merge_limit(inputs))


@dataclass(frozen=True, kw_only=True)
class DistilInputs(Generic[T]):
    """The state, the global representations, the ensembles that there are, and clients' weights where they count."""

    server_state: T
    global_representations: T
    ensembles: Mapping[Modality, T]
    client_weights: tuple[T, ...] = ()
    """In the order of the clients' names, so that an average has the same bits whoever was first."""

    def named(self) -> dict[str, T]:
        """By name."""
        ensembles = {f"{_SED}/{modality.value}": state for modality, state in self.ensembles.items()}
        weights = {f"{WEIGHTS}{index:06d}": artifact for index, artifact in enumerate(self.client_weights)}
        return (
            {SERVER_STATE: self.server_state, GLOBAL_REPRESENTATIONS: self.global_representations} | ensembles | weights
        )

    @classmethod
    def of(cls, inputs: Mapping[str, T]) -> DistilInputs[T]:
        """From names."""
        return cls(
            server_state=inputs[SERVER_STATE],
            global_representations=inputs[GLOBAL_REPRESENTATIONS],
            ensembles=_by_modality(inputs, f"{_SED}/"),
            client_weights=tuple(artifact for _, artifact in sorted(_below(inputs, WEIGHTS).items())),
        )


@dataclass(frozen=True, kw_only=True)
class DistilOutputs(Generic[T]):
    """The distilled state, and the averages of clients' weights by group."""

    server_state: T
    averages: Mapping[str, T] = field(default_factory=dict)

    def named(self) -> dict[str, T]:
        """By name."""
        return {SERVER_STATE: self.server_state} | {
            f"{WEIGHTS}{group}": artifact for group, artifact in self.averages.items()
        }

    @classmethod
    def of(cls, outputs: Mapping[str, T]) -> DistilOutputs[T]:
        """From names."""
        return cls(server_state=outputs[SERVER_STATE], averages=_below(outputs, WEIGHTS))


@dataclass(frozen=True, kw_only=True)
class EvaluateInputs(Generic[T]):
    """The distilled state."""

    server_state: T

    def named(self) -> dict[str, T]:
        """By name."""
        return {SERVER_STATE: self.server_state}

    @classmethod
    def of(cls, inputs: Mapping[str, T]) -> EvaluateInputs[T]:
        """From names."""
        return cls(server_state=inputs[SERVER_STATE])


@dataclass(frozen=True, kw_only=True)
class EvaluateOutputs(Generic[T]):
    """The state that the next round starts from, and the files of the model version, by path."""

    server_state: T
    model_files: Mapping[str, T]

    def named(self) -> dict[str, T]:
        """By name."""
        return {SERVER_STATE: self.server_state} | {f"{_MODEL}{path}": file for path, file in self.model_files.items()}

    @classmethod
    def of(cls, outputs: Mapping[str, T]) -> EvaluateOutputs[T]:
        """From names."""
        return cls(server_state=outputs[SERVER_STATE], model_files=_below(outputs, _MODEL))


def _below(values: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {name.removeprefix(prefix): artifact for name, artifact in values.items() if name.startswith(prefix)}


def _ways(branches: tuple[Branch[T], ...], above: str) -> Iterator[tuple[str, T]]:
    for number, branch in enumerate(branches):
        way = f"{above}/{number}"
        if isinstance(branch, tuple):
            yield from _ways(branch, way)
        else:
            yield way, branch


def _branches(by_way: Mapping[str, T]) -> tuple[Branch[T], ...]:
    """The children of the node that these ways begin at."""
    numbers = sorted({int(way.partition("/")[0]) for way in by_way})
    return tuple(by_way[str(n)] if str(n) in by_way else _branches(_below(by_way, f"{n}/")) for n in numbers)


def _by_modality(values: Mapping[str, T], prefix: str) -> dict[Modality, T]:
    return {modality: values[name] for modality in Modality if (name := f"{prefix}{modality.value}") in values}
