"""The personalized model's folder, made from a client's state: packed to be sent, or for the site itself.

The weights go from file to file: the state is memory-mapped and the server's bundles are streamed. What is sent keeps
LoRA's matrices apart from the frozen weights, as the bundles do, so that the frozen ones are known by their hash and
need not travel; whoever reads it merges them. What stays at the site holds plain weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fedafd.artifacts.folders import each_file, pack_files
from fedafd.datasets.intensity import IntensityRange
from fedafd.domain.config import EncoderConfig, FederationConfig, FusionMode, parse_federation_config, usual_task
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.domain.whole_files import remove_leftover
from fedafd.learning.alone import has_alone_branch
from fedafd.learning.checkpoint import Checkpoint, tensors_below, write_tensors
from fedafd.learning.client_model import ENCODERS
from fedafd.learning.fedavg import HEAD
from fedafd.learning.lora import merge_folder, merged_tensors
from fedafd.learning.model_card import SiteFacts, personalized_card
from fedafd.learning.model_sums import write_sums
from fedafd.learning.sample_encoder import description

__all__ = ["Recipe", "write_personalized_model", "write_shared_model"]

_ENCODER_FILES = frozenset({"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"})
"""What a bundle's folder is read for; nothing else that it may hold gets into a model's folder."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What beside its state and the server's encoders a personalized model is made of."""

    config: FederationConfig
    kind: ClientKind
    metrics: Mapping[str, float]
    lineage: Mapping[str, Any]
    intensity_range: IntensityRange | None = None
    facts: SiteFacts | None = field(default=None)
    """Only where the model stays at its site."""
    note: str = ""
    """What the card says first: which of a site's models this is."""

    def to_json(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            "config": json.loads(self.config.sites_json()),
            "kind": self.kind.value,
            "metrics": dict(self.metrics),
            "lineage": dict(self.lineage),
            "intensity_range": self.intensity_range,
            "facts": None if self.facts is None else asdict(self.facts),
            "note": self.note,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """Read back. Raises DataError for anything that to_json did not make."""
        try:
            window, facts = values["intensity_range"], values["facts"]
            return cls(
                config=parse_federation_config(values["config"]),
                kind=ClientKind(values["kind"]),
                metrics=values["metrics"],
                lineage=values["lineage"],
                intensity_range=None if window is None else (float(window[0]), float(window[1])),
                facts=None if facts is None else SiteFacts(**facts),
                note=str(values.get("note", "")),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"not the description of a personalized model: {error}") from None


def write_shared_model(target: Path, recipe: Recipe, *, state: Path, bundles: Mapping[Modality, Path]) -> None:
    """Write the model as it is sent, packed, with LoRA's matrices apart. Raises DataError for an unreadable state."""
    folder = target.with_name(f"{target.name}.folder")
    remove_leftover(folder)
    try:
        _write(folder, recipe, Checkpoint.mapped(state), bundles, merged=False)
        pack_files(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_personalized_model(
    folder: Path, recipe: Recipe, *, state: Path, bundles: Mapping[Modality, Path], part: str | None = None
) -> None:
    """Write the site's own into `folder`, which is made; without the frozen encoders whose bundle is not given.

    `part`: of a state that is nested in `state` under that name. Raises DataError for an unreadable state, OSError.
    """
    checkpoint = Checkpoint.mapped(state)
    if part is not None:
        nested = checkpoint.nested(part)
        if nested is None:
            raise DataError(f"{state}: holds no {part}")
        checkpoint = nested
    _write(folder, recipe, checkpoint, bundles, merged=True)


def _write(
    folder: Path, recipe: Recipe, checkpoint: Checkpoint, bundles: Mapping[Modality, Path], *, merged: bool
) -> None:
    """Local and frozen global encoders, fusion, head, labels, model card, SHA256SUMS."""
    files, weights = _parts(recipe, checkpoint.meta, checkpoint.tensors, merged=merged)
    for path, content in files.items():
        _with_parent(folder / path).write_bytes(content)
    for path, tensors in weights.items():
        write_tensors(tensors, _with_parent(folder / path))
    for modality in (candidate for candidate in recipe.kind.modalities if candidate in bundles):
        target = folder / "global" / modality.value
        target.mkdir(parents=True, exist_ok=True)
        with bundles[modality].open("rb") as blob:
            for path, packed in each_file(blob):
                if path in _ENCODER_FILES:
                    with (target / path).open("wb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
        if merged:
            merge_folder(target)
    write_sums(folder)


def _parts(
    recipe: Recipe, meta: Mapping[str, Any], tensors: Mapping[str, Tensor], *, merged: bool
) -> tuple[dict[str, bytes], dict[str, dict[str, Tensor]]]:
    """The small files, and the tensors of each file of weights, all by path."""
    config, kind = recipe.config, recipe.kind
    model = tensors_below(tensors, "model")
    fuses = config.fusion.mode in (FusionMode.VECTOR, FusionMode.TOKENS)
    apart = (f"{ENCODERS}.", "alignment.", *(() if fuses else ("fusions.",)))
    rest = {name: value for name, value in sorted(model.items()) if not name.startswith(apart)}
    files: dict[str, bytes] = {}
    weights = {"model.safetensors": rest}
    _add_encoders(files, weights, "local", meta, model, config, merged=merged)
    pool = meta.get("branches", {}) if has_alone_branch(config, kind) else {}
    if "alone" in pool:
        by_itself = tensors_below(tensors, "alone/model")
        _add_encoders(files, weights, "alone", meta["alone"], by_itself, config, merged=merged)
        weights["alone/head.safetensors"] = {"free_weight": by_itself[HEAD]}
    task = StateFingerprint.of_state(meta).task
    described = {
        "model_type": "fedafd-personalized",
        "kind": kind.value,
        "labels": meta["labels"],
        "federation": json.loads(config.sites_json()),
        "intensity_range": recipe.intensity_range,
        "lineage": dict(recipe.lineage),
        **({"branches": pool} if pool else {}),
        **({} if task in (None, usual_task(kind)) else {"task": task.model_dump(mode="json")}),
    }
    files["config.json"] = json.dumps(described, indent=2, sort_keys=True).encode()
    card = personalized_card(
        config,
        kind,
        meta["labels"],
        metrics=recipe.metrics,
        lineage=recipe.lineage,
        facts=recipe.facts,
        note=recipe.note,
        task=task,
    )
    files["README.md"] = card.encode()
    return files, weights


def _add_encoders(
    files: dict[str, bytes],
    weights: dict[str, dict[str, Tensor]],
    whose: str,
    meta: Mapping[str, Any],
    model: Mapping[str, Tensor],
    config: FederationConfig,
    *,
    merged: bool,
) -> None:
    """The folder of each encoder of a client's model, below `whose`, its LoRA merged or apart."""
    for name, described in meta["encoders"].items():
        modality = Modality(name)
        words = meta["tokenizer"] if modality is Modality.TEXT else None
        encoder = EncoderConfig.model_validate(described)
        adapter = encoder.adapter if merged else None
        shown = encoder.merged() if merged else encoder
        for path, content in description(shown, modality, config.embedding_dim, words).items():
            files[f"{whose}/{name}/{path}"] = content
        start = f"{ENCODERS}.{name}.encoder."
        tensors = {key.removeprefix(start): value for key, value in sorted(model.items()) if key.startswith(start)}
        weights[f"{whose}/{name}/model.safetensors"] = tensors if adapter is None else merged_tensors(adapter, tensors)


def _with_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
