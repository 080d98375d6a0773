"""A region's delivery on the wire: one merged SED state per modality, checked before it counts.

Shape legend: N public samples, D embedding dimension. Per modality that the region's clients hold there are tensors
`<modality>.running_max` [N], `.normaliser` [N], `.weighted_sum` [N, D] in float32, and the scalars `.count` and
`.temperature`: SimilarityEnsemble.state(), under a prefix. The metadata names the public set, the global
representations that all scores compare with, and the number of clients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedafd.artifacts.representations import NORM_TOLERANCE, Tensor, check_subject, opened
from fedafd.artifacts.sed_states import WEIGHTED_SUM, rows_of
from fedafd.domain.config import EnsembleMode, FederationConfig
from fedafd.domain.errors import RepresentationError
from fedafd.domain.kinds import Modality

__all__ = ["ClientCounts", "check_merged_states", "encode_merged_states", "sed_state_of"]

_ARRAYS = ("running_max", "normaliser", WEIGHTED_SUM)
_SCALARS = {"count": np.dtype(np.int64), "temperature": np.dtype(np.float64)}
_NUMBERS_AT_ONCE = 1 << 14  # in float64
_SUM_TOLERANCE = 1e-3
"""Of sums of float32, relative."""
_SCORE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "auto": 0.1}
"""How far rounding may lift a score above the highest there is, by the precision of the similarities."""
_HIGHEST_CONTRAST = -math.log(np.finfo(np.float32).eps)
"""Where ContrastiveEnsemble cuts its scores off."""


@dataclass(frozen=True, kw_only=True)
class ClientCounts:
    """How many clients a region's states stand for: `total`, and those that hold each modality."""

    total: int
    by_modality: Mapping[Modality, int]

    def __post_init__(self) -> None:
        counts = self.by_modality.values()
        if not counts or min(counts) < 1 or not max(counts) <= self.total <= sum(counts):
            parts = ", ".join(f"{count} with {modality.value}" for modality, count in self.by_modality.items())
            raise RepresentationError(f"a region cannot have {self.total} clients, {parts or 'none with a modality'}")


def encode_merged_states(
    states: Mapping[Modality, bytes], *, total: int, public_set_sha256: str, global_sha256: str
) -> bytes:
    """The delivery of `total` clients whose merged SED states these are; the same bytes for the same values."""
    tensors: dict[str, NDArray[np.generic]] = {}
    for modality in sorted(states):
        state = load(states[modality])
        arrays = {**state, WEIGHTED_SUM: rows_of(state)}
        tensors |= {f"{modality.value}.{name}": arrays[name].astype(np.float32) for name in _ARRAYS}
        tensors |= {f"{modality.value}.{name}": state[name].astype(dtype) for name, dtype in _SCALARS.items()}
    about = {"public_set_sha256": public_set_sha256, "global_representations_sha256": global_sha256}
    return save(tensors, metadata=about | {"num_clients": str(total)})


def sed_state_of(blob: bytes, modality: Modality) -> bytes:
    """The SED state of one modality of a delivery that was checked."""
    prefix = f"{modality.value}."
    tensors = {name.removeprefix(prefix): value for name, value in load(blob).items() if name.startswith(prefix)}
    return save(tensors)


def check_merged_states(
    file: Path,
    config: FederationConfig,
    *,
    num_samples: int,
    public_set_sha256: str,
    global_sha256: str,
    max_clients: int,
) -> ClientCounts:
    """How many clients a region's delivery stands for, if that many clients of the round can have made it.

    Scores are logarithms of probabilities, so that a state whose scores are no higher and whose sums are no larger than
    those of its clients weighs at most as much as they would. Part of the rows is in memory at a time.

    Raises RepresentationError for a wrong tensor name, dtype, shape, value or number of clients, and for states of
    another round; PublicSetMismatchError when the rows are about another public set.
    """
    with opened(file) as (metadata, tensors):
        check_subject(metadata, public_set_sha256)
        if metadata.get("global_representations_sha256") != global_sha256:
            raise RepresentationError("merged states compare with other global representations than this round's")
        modalities = _modalities(tensors)
        counts = {modality: _count(tensors, modality, config) for modality in modalities}
        clients = ClientCounts(total=_total(metadata), by_modality=counts)
        if clients.total > max_clients:
            raise RepresentationError(
                f"the region counts {clients.total} clients, and may have {max_clients}; ask the operator to raise it"
            )
        for modality, count in counts.items():
            _check_arrays(tensors, modality, count, num_samples, config)
    return clients


def _modalities(tensors: Mapping[str, Tensor]) -> list[Modality]:
    modalities = [modality for modality in Modality if f"{modality.value}.count" in tensors]
    names = {f"{modality.value}.{part}" for modality in modalities for part in (*_ARRAYS, *_SCALARS)}
    if not modalities or names != tensors.keys():
        missing, surplus = sorted(names - tensors.keys()), len(tensors.keys() - names)
        raise RepresentationError(
            f"merged states hold {len(tensors)} tensors; for {[m.value for m in modalities]} {missing or 'none'} are"
            f" missing and {surplus} are of other names"
        )
    return modalities


def _count(tensors: Mapping[str, Tensor], modality: Modality, config: FederationConfig) -> int:
    values = {}
    for part, dtype in _SCALARS.items():
        name = f"{modality.value}.{part}"
        if tensors[name].dtype != dtype or tensors[name].shape != ():
            raise RepresentationError(f"tensor {name!r} must be one {dtype}")
        values[part] = np.asarray(tensors[name][...]).item()
    mean = config.distillation.ensemble is EnsembleMode.MEAN
    expected = math.inf if mean else config.distillation.temperature
    if values["temperature"] != expected:
        raise RepresentationError(
            f"tensor {modality.value + '.temperature'!r} is {values['temperature']}, and the federation's is {expected}"
        )
    return int(values["count"])


def _total(metadata: Mapping[str, str]) -> int:
    text = metadata.get("num_clients", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise RepresentationError("merged states do not say how many clients they stand for")
    return int(text)


def _check_arrays(
    tensors: Mapping[str, Tensor], modality: Modality, count: int, num_samples: int, config: FederationConfig
) -> None:
    dim, name = config.embedding_dim, modality.value
    for part in _ARRAYS:
        shape = (num_samples, dim) if part == WEIGHTED_SUM else (num_samples,)
        tensor = tensors[f"{name}.{part}"]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            raise RepresentationError(
                f"tensor {f'{name}.{part}'!r} has dtype {tensor.dtype} and shape {list(tensor.shape)}, expected float32"
                f" and {list(shape)}"
            )
    rows = max(1, _NUMBERS_AT_ONCE // dim)
    for first in range(0, num_samples, rows):
        some = slice(first, min(first + rows, num_samples))
        _check_values(
            {part_name: _floats(tensors[f"{name}.{part_name}"][some]) for part_name in _ARRAYS},
            name,
            count,
            config,
            first,
        )


def _floats(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return values.astype(np.float64)  # squares and products of float32 stay finite in it


def _check_values(
    state: Mapping[str, NDArray[np.float64]], name: str, count: int, config: FederationConfig, first: int
) -> None:
    """`first` is the number of the first row."""
    max_N, normaliser_N = state["running_max"], state["normaliser"]
    length_N = np.linalg.norm(state[WEIGHTED_SUM], axis=1)
    _need(np.isfinite(max_N), f"{name}.running_max", "is not finite", first)
    _need(np.isfinite(normaliser_N), f"{name}.normaliser", "is not finite", first)
    _need(np.isfinite(length_N), f"{name}.weighted_sum", "has a value that is not finite", first)
    contrast = config.distillation.ensemble is EnsembleMode.CONTRASTIVE
    highest = (_HIGHEST_CONTRAST if contrast else 0.0) + _SCORE_TOLERANCE[config.distillation.precision]
    _need(max_N <= highest, f"{name}.running_max", "is above the highest score that a client can have", first)
    least, most = 1 - _SUM_TOLERANCE, count * (1 + _SUM_TOLERANCE)
    fits_N = (normaliser_N >= least) & (normaliser_N <= most)
    _need(fits_N, f"{name}.normaliser", f"is not 1 to {count}, the number of clients", first)
    longest_N = normaliser_N * (1 + NORM_TOLERANCE + _SUM_TOLERANCE)
    _need(length_N <= longest_N, f"{name}.weighted_sum", "is longer than its normaliser", first)


def _need(good_N: NDArray[np.bool_], name: str, wrong: str, first: int) -> None:
    if not good_N.all():
        raise RepresentationError(f"tensor {name!r} {wrong}, first in row {first + int(np.flatnonzero(~good_N)[0])}")
