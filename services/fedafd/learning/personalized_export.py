"""The personalized model's folder, made from a client's state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save

from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.local_site import make_client_model
from fedafd.rpc.bundles import unpack_folder

__all__ = ["export_personalized_model"]


def export_personalized_model(
    *,
    config: FederationConfig,
    kind: ClientKind,
    state: bytes,
    bundles: Mapping[Modality, bytes],
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
) -> dict[str, bytes]:
    """Complete: local and frozen global encoders, fusion, head, labels, model card. Files by path."""
    checkpoint = Checkpoint.from_bytes(state)
    model = make_client_model(config, kind, checkpoint)
    checkpoint.load_module("model", model)
    files: dict[str, bytes] = {}
    for modality in kind.modalities:
        files |= model.towers[modality.value].to_files(f"local/{modality.value}/")  # type: ignore[operator]
        files |= {f"global/{modality.value}/{path}": c for path, c in unpack_folder(bundles[modality]).items()}
    rest = {k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith(("towers.", "alignment."))}
    files["model.safetensors"] = save(dict(sorted(rest.items())))
    described = {
        "model_type": "fedafd-personalized",
        "kind": kind.value,
        "labels": checkpoint.meta["labels"],
        "federation": json.loads(config.canonical_json()),
        "lineage": dict(lineage),
    }
    files["config.json"] = json.dumps(described, indent=2, sort_keys=True).encode()
    rows = "\n".join(f"| {name} | {value:.2f} |" for name, value in sorted(metrics.items()))
    card = f"# Personalized {kind.value} model of federation {config.name}\n\n| metric | value |\n|---|---|\n{rows}\n"
    files["README.md"] = card.encode()
    return files
