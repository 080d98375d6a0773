"""A client's saved state made to fit what it is asked for today: what differs is found, and answered, by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from fedafd.datasets.labels import has_several
from fedafd.datasets.report import texts_of
from fedafd.datasets.samples import ClientData, PairSplit, Split
from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.seeds import derive_seed
from fedafd.domain.state_cases import Difference
from fedafd.domain.state_fingerprint import (
    StateFingerprint,
    compare,
    refuse_mismatch,
    rows_by_name,
    tokenizer_rules,
)
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.fedavg import HEAD
from fedafd.learning.image_processor import image_reading, pixel_scale
from fedafd.learning.sentence_folder import text_reading
from fedafd.learning.tokens import build_tokenizer, unknown_share

__all__ = [
    "FUSIONS",
    "adapt",
    "bound_by_name",
    "chosen_encoders",
    "fingerprint_of_round",
    "unknown_words",
]

FUSIONS = "fusions."
"""Where a client's model holds its fusions."""
_TEXTS_LOOKED_AT = 5000
"""More would not change a share in its first digits."""
Encoders = Mapping[Modality, EncoderConfig | None]


def chosen_encoders(config: FederationConfig, kind: ClientKind, own: Encoders) -> dict[Modality, EncoderConfig]:
    """The site's own encoders, else the federation's."""
    defaults = {Modality.IMAGE: config.image_encoder, Modality.TEXT: config.text_encoder}
    return {m: own.get(m) or defaults[m] for m in kind.modalities}


def fingerprint_of_round(
    config: FederationConfig, kind: ClientKind, encoders: Encoders | None, classes: Sequence[str]
) -> StateFingerprint:
    """What a state that is made today is made for. `encoders`: the site's own; None where they are not known."""
    chosen = {} if encoders is None else chosen_encoders(config, kind, encoders)
    text = chosen.get(Modality.TEXT)
    return StateFingerprint(
        kind=kind,
        classes=tuple(classes),
        image_encoder=chosen.get(Modality.IMAGE),
        text_encoder=text,
        tokenizer=tokenizer_rules(build_tokenizer([]).to_str()) if text is not None and not text.pretrained else None,
        vocabulary=config.client.vocabulary if text is not None else None,
        embedding_dim=config.embedding_dim,
        fusion=config.fusion,
        centre=config.alignment.centre,
        averaging=config.averaging,
        optimizer=config.client.for_kind(kind).optimizer,
        preset=config.preset,
        strategy=config.strategy,
    )


def unknown_words(tokenizer: str | None, data: ClientData) -> int | None:
    """Percent of the words of the training texts that a tokenizer (as JSON) does not know; None without texts."""
    if tokenizer is None:
        return None
    texts = islice(texts_of(data.train), _TEXTS_LOOKED_AT)
    return round(100 * unknown_share(Tokenizer.from_str(tokenizer), texts))


def adapt(checkpoint: Checkpoint, today: StateFingerprint, seed: int) -> list[Difference]:
    """Make a state, in place, one of today's; returns what differed. `seed`: of the rows of new classes.

    Raises StateUnusableError where the state cannot follow.
    """
    saved = StateFingerprint.of_state(checkpoint.meta)
    differences = compare(saved, today)
    refuse_mismatch(differences)
    cases = {difference.case for difference in differences}
    if "classes-added" in cases:
        _grow_head(checkpoint, today.classes or (), seed)
    for modality in Modality:
        encoder: EncoderConfig | None = getattr(today, f"{modality.value}_encoder")
        if encoder is not None and modality.value in checkpoint.meta["encoders"]:
            _adapt_reading(checkpoint, modality, encoder, cases)
    if cases & {"fusion-fresh", "fusion-off"}:
        checkpoint.drop("model", FUSIONS)
        checkpoint.drop("fusion")
    if cases & {"optimizer", "encoder-trainable"}:
        checkpoint.drop("main")
    rows = tuple(checkpoint.meta["labels"])
    checkpoint.meta["fingerprint"] = today.over(saved).model_copy(update={"classes": rows}).as_json()
    return differences


def bound_by_name(data: ClientData, classes: Sequence[str]) -> ClientData:
    """The same samples, their labels the rows of `classes`, which holds the name of each class of the data."""
    if tuple(classes) == data.labels:
        return data
    rows, own = rows_by_name(classes, data.labels)
    row_of_label = np.array([rows[name] for name in own], dtype=np.int64)
    train, val, test = (_relabelled(split, row_of_label, len(classes)) for split in (data.train, data.val, data.test))
    return dataclasses.replace(data, train=train, val=val, test=test, labels=tuple(classes))


def _relabelled(split: Split, row_of_label: np.typing.NDArray[np.int64], num_rows: int) -> Split:
    if isinstance(split, PairSplit):
        return split
    if not has_several(split.labels):
        return dataclasses.replace(split, labels=row_of_label[split.labels])
    moved = np.zeros((len(split), num_rows), dtype=split.labels.dtype)
    moved[:, row_of_label] = split.labels
    return dataclasses.replace(split, labels=moved)


def _grow_head(checkpoint: Checkpoint, classes: Sequence[str], seed: int) -> None:
    rows, own = rows_by_name(checkpoint.meta["labels"], classes)
    added = [name for name in own if name not in rows]
    path = f"model/{HEAD}"
    head_CD = checkpoint.tensors[path]
    fresh = [_fresh_row(head_CD, derive_seed(seed, "class", name)) for name in added]
    checkpoint.tensors[path] = torch.cat([head_CD, torch.stack(fresh)])
    checkpoint.meta["labels"] = [*checkpoint.meta["labels"], *(classes[own[name]] for name in added)]


def _fresh_row(head_CD: Tensor, seed: int) -> Tensor:
    """As ClassificationHead draws them."""
    bound = 1 / math.sqrt(head_CD.shape[1])
    row_D = torch.empty_like(head_CD[0])
    return row_D.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))


def _adapt_reading(checkpoint: Checkpoint, modality: Modality, today: EncoderConfig, cases: set[str]) -> None:
    """What an encoder's weights do not depend on follows the configuration."""
    saved = EncoderConfig.model_validate(checkpoint.meta["encoders"][modality.value])
    changes: dict[str, object] = {}
    if "encoder-trainable" in cases:
        changes["trainable"] = today.trainable
    if modality is Modality.IMAGE and "image-size" in cases:
        changes["image_size"] = today.image_size
    if modality is Modality.IMAGE and "pixel-scale" in cases:
        changes["image_mean"], changes["image_std"] = pixel_scale(today)
    if modality is Modality.IMAGE and "image-reading" in cases:
        reading = image_reading(today)
        changes |= {name: reading.get(name, getattr(today, name)) for name in ("image_crop", "image_interpolation")}
    if modality is Modality.TEXT and "max-tokens" in cases:
        changes["max_tokens"] = today.max_tokens
        checkpoint.meta["tokenizer"] = _cut_at(checkpoint.meta["tokenizer"], today.max_tokens)
    if modality is Modality.TEXT and "text-reading" in cases:
        texts = text_reading(today, modality)
        changes |= {"pooling": texts.pooling, "prefix": texts.prefix}
    if "encoder-dropout" in cases:
        kept = {key: value for key, value in saved.options.items() if "drop" not in key}
        changes["options"] = kept | {key: value for key, value in today.options.items() if "drop" in key}
        if saved.lora is not None and today.adapter is not None:
            changes["lora"] = saved.lora.model_copy(update={"dropout": today.adapter.dropout})
    if changes:
        checkpoint.meta["encoders"][modality.value] = saved.model_copy(update=changes).model_dump(mode="json")


def _cut_at(tokenizer: str, max_tokens: int) -> str:
    """The tokenizer of pretrained weights cuts and pads by itself; the others leave it to `token_ids`."""
    parsed = Tokenizer.from_str(tokenizer)
    if parsed.padding:
        parsed.enable_truncation(max_tokens)
        parsed.enable_padding(**parsed.padding | {"length": max_tokens})
    return parsed.to_str()
