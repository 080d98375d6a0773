"""FedAvg among clients of one group: the same kind, encoders, vocabulary and classes (arXiv 1602.05629).

An update is the safetensors of a client's model with the number of its private samples, 0 where its site does not tell
it; such a client counts as the mean of those that do. Updates of one group are summed in float64 in the order given, so
that the average has the same bits wherever it is made. The head's rows travel in the order of the classes' names, so
that a row means the same class whatever order a client has learned them in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fedafd.artifacts.weight_updates import group_name, layout_of
from fedafd.domain.errors import DataError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind
from fedafd.domain.state_fingerprint import rows_by_name
from fedafd.learning.checkpoint import Checkpoint, tensors_below
from fedafd.learning.client_model import ENCODERS, ClientModel

__all__ = ["HEAD", "average_updates", "group_of", "load_average", "weight_update"]

HEAD = "head.free_weight"
"""The weights of a classifier in a client's model: a row per class."""
_APART = ("alignment.", "mean_", "fusions.")
"""Parts of a client's model that are its own."""


def group_of(state: bytes | Checkpoint) -> str:
    """Name of the group that a client's state belongs to: a hash of everything that must be equal."""
    return _group(state if isinstance(state, Checkpoint) else Checkpoint.from_bytes(state))


def weight_update(state: bytes | Checkpoint, num_private_samples: int) -> bytes:
    """What a client sends up: its encoders' and head's weights; 0 samples are not told.

    Raises DataError for an unreadable state.
    """
    checkpoint = state if isinstance(state, Checkpoint) else Checkpoint.from_bytes(state)
    kept = Checkpoint(meta={"group": _group(checkpoint), "num_private_samples": num_private_samples})
    trained = _trained_of(checkpoint.meta["encoders"])
    for key, value in tensors_below(checkpoint.tensors, "model").items():
        if not key.startswith(_APART) and _travels(key, trained):
            travels = value[_rows_in_order(checkpoint.meta["labels"])] if key == HEAD else value
            kept.tensors[f"model/{key}"] = travels
    return kept.to_bytes()


def average_updates(updates: Sequence[bytes]) -> dict[str, bytes]:
    """The average of each group by its name. Raises DataError for updates that do not fit their group."""
    groups: dict[str, list[Checkpoint]] = {}
    for update in updates:
        checkpoint = Checkpoint.from_bytes(update)
        groups.setdefault(str(checkpoint.meta["group"]), []).append(checkpoint)
    return {name: _average(name, members) for name, members in sorted(groups.items())}


def load_average(model: nn.Module, average: bytes, labels: Sequence[str]) -> None:
    """Put a group's average into a client's model of the classes `labels`; its own parts stay.

    Raises DataError if it does not fit.
    """
    tensors = tensors_below(Checkpoint.from_bytes(average).tensors, "model")
    if HEAD in tensors and len(tensors[HEAD]) == len(labels):
        rows = torch.tensor(_rows_in_order(labels))
        tensors[HEAD] = tensors[HEAD][torch.argsort(rows)]
    missing, surplus = model.load_state_dict(tensors, strict=False)
    encoders = model.encoders if isinstance(model, ClientModel) else {}
    trained = {modality.value: encoder.config.trainable for modality, encoder in encoders.items()}
    lacking = [name for name in missing if not name.startswith(_APART) and _travels(name, trained)]
    if lacking or surplus:
        raise DataError(f"averaged weights do not fit this model: lacking {lacking}, unknown {surplus}")


def _trained_of(encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What of each encoder is trained, by modality."""
    return {name: encoder.get("trainable", "all") for name, encoder in encoders.items()}


def _travels(key: str, trained: Mapping[str, str]) -> bool:
    """Whether a tensor of a client's model is one that training changes: a frozen one stays where it is."""
    for modality, what in trained.items():
        if what != "all" and key.startswith(f"{ENCODERS}.{modality}.encoder.backbone."):
            return what == "lora" and ".lora_" in key
    return True


def _average(name: str, members: Sequence[Checkpoint]) -> bytes:
    shares = _shares(name, [int(member.meta["num_private_samples"]) for member in members])
    average = Checkpoint(meta={"group": name})
    for key, first in members[0].tensors.items():
        if not first.is_floating_point():
            average.tensors[key] = first
            continue
        summed: Tensor = torch.zeros(first.shape, dtype=torch.float64)
        for member, share in zip(members, shares, strict=True):
            value = member.tensors.get(key)
            if value is None or value.shape != first.shape or not bool(torch.isfinite(value).all()):
                raise DataError(f"averaging group {name}: {key} is missing, of another shape, or not finite")
            summed += value.double() * share
        average.tensors[key] = summed.to(first.dtype)
    return average.to_bytes()


def _shares(name: str, counts: Sequence[int]) -> list[float]:
    """Each member's share, by its number of samples; one that tells none counts as the mean of those that do."""
    if min(counts) < 0:
        raise DataError(f"averaging group {name}: a number of private samples is {min(counts)}")
    known = [count for count in counts if count]
    mean = sum(known) / len(known) if known else 1.0
    weights = [count or mean for count in counts]
    return [weight / sum(weights) for weight in weights]


def _rows_in_order(labels: Sequence[str]) -> list[int]:
    (rows,) = rows_by_name(labels)
    return [rows[name] for name in sorted(rows)]


def _group(checkpoint: Checkpoint) -> str:
    trained = _trained_of(checkpoint.meta["encoders"])
    model = {k: v for k, v in tensors_below(checkpoint.tensors, "model").items() if not k.startswith(_APART)}
    layout = layout_of(
        {
            f"model/{key}": (str(value.dtype).removeprefix("torch."), tuple(value.shape))
            for key, value in model.items()
            if _travels(key, trained)
        }
    )
    meaning = {name: checkpoint.meta[name] for name in ("tokenizer", "encoders")}
    meaning["labels"] = sorted(rows_by_name(checkpoint.meta["labels"])[0])
    frozen = {key: value for key, value in model.items() if not _travels(key, trained)}
    if frozen:  # what is trained beside other weights means something else
        meaning["frozen"] = sha256_of(save(dict(sorted(frozen.items()))))
    digest = sha256_of(json.dumps(meaning, sort_keys=True).encode())[:16]
    modalities = sorted(checkpoint.meta["encoders"])
    kind = ClientKind.PAIR if len(modalities) == 2 else ClientKind(modalities[0])
    return group_name(kind, layout, digest)
