"""A federation and data small enough to train in a second; what tests of learning share."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedafd.artifacts.folders import pack_folder, unpack_folder
from fedafd.datasets.samples import ClientData, PairSplit
from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.client_round import ClientRound, train_client
from fedafd.learning.local_site import LocalSite, Sent
from fedafd.learning.personalized_export import Recipe, write_shared_model
from fedafd.learning.server_round import Prepared, export_global_model, initial_server_state, prepare

IMAGE = {
    "architecture": "resnet",
    "image_size": 32,
    "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}
NORMLESS_IMAGE = {
    "architecture": "convnextv2",
    "image_size": 32,
    "options": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
}
TEXT = {
    "architecture": "bigru",
    "max_tokens": 16,
    "options": {"embedding_size": 16, "hidden_size": 16, "dropout": 0.0},
}


def tiny_federation(**changes: object) -> FederationConfig:
    """Plain SGD, so that a difference of rounding stays one."""
    server = {"passes": 1, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.05}
    values: dict[str, object] = {
        "name": "tiny",
        "preset": "small",
        "embedding_dim": 16,
        "image_encoder": IMAGE,
        "text_encoder": TEXT,
        "server": server | dict(changes.pop("server", {})),  # type: ignore[call-overload]
        "client": {"local_epochs": 1} | dict(changes.pop("client", {})),  # type: ignore[call-overload]
        "distillation": {"start_round": 1},
    }
    return parse_federation_config(values | changes)


def tiny_public() -> dict[str, PairSplit]:
    """48 public pairs."""
    return public_data(ShapesOptions(num_train=48, num_val=8, num_test=24, seed=1))


def tiny_private(kind: ClientKind) -> ClientData:
    """40 private samples."""
    return client_data(kind, ShapesOptions(num_train=40, num_val=16, num_test=24, seed=2))


def tiny_server(config: FederationConfig) -> tuple[bytes, Prepared]:
    """A server's first state, and what it prepares for round 1."""
    public = tiny_public()["train"]
    state = initial_server_state(config=config, captions=public.captions, seed=3)
    return state, prepare(config=config, state=state, public=public, round_number=1, seed=4, device="cpu")


def tiny_client(
    kind: ClientKind, config: FederationConfig, made: Prepared, state: bytes | None = None, **more: Any
) -> ClientRound:
    """A client's part of round 1; of round 2 with a `state`. `more`: further and other arguments of train_client."""
    given: dict[str, Any] = {
        "image_encoder": None,
        "text_encoder": None,
        "round_number": 1 if state is None else 2,
        "seed": 5,
    }
    return train_client(
        config=config,
        kind=kind,
        data=tiny_private(kind),
        public=tiny_public()["train"],
        global_representations=made.representations,
        bundles={m: made.bundles[m] for m in kind.modalities},
        state=state,
        device="cpu",
        **(given | more),
    )


def tiny_global() -> dict[str, bytes]:
    """The files of a global model that has learned nothing; its encoders read what `tiny_public` holds."""
    config, captions = tiny_federation(), tiny_public()["train"].captions
    state = initial_server_state(config=config, captions=captions, seed=3)
    return export_global_model(config=config, state=state, metrics={"rsum": 12.5}, lineage={"round": 1})


def tiny_bundles() -> dict[Modality, bytes]:
    """That model's encoders, packed as a server packs them."""
    files = tiny_global()
    names = {m: [name for name in files if name.startswith(f"{m.value}/")] for m in Modality}
    return {m: pack_folder({name.removeprefix(f"{m.value}/"): files[name] for name in names[m]}) for m in Modality}


def tiny_state(kind: ClientKind, bundles: dict[Modality, bytes], **changes: object) -> bytes:
    """A client's state before its first training."""
    sent = Sent(representations={}, bundles=bundles, public=None)
    return LocalSite(tiny_federation(**changes), kind, {}, tiny_private(kind), None, 5, "cpu", sent=sent).state()


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    """A folder of those files."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def shared_files(recipe: Recipe, *, state: bytes, bundles: Mapping[Modality, bytes]) -> dict[str, bytes]:
    """The files of a model as a site shares it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "state").write_bytes(state)
        paths = {modality: folder / modality.value for modality in bundles}
        for modality, bundle in bundles.items():
            paths[modality].write_bytes(bundle)
        write_shared_model(folder / "packed", recipe, state=folder / "state", bundles=paths)
        return unpack_folder((folder / "packed").read_bytes())


def personalized_folder(kind: ClientKind, folder: Path, **changes: Any) -> Path:
    """A personalized model's folder, of a client that has learned nothing."""
    bundles = tiny_bundles()
    recipe = tiny_recipe(kind, **changes)
    return write_files(shared_files(recipe, state=tiny_state(kind, bundles), bundles=bundles), folder)


def tiny_recipe(kind: ClientKind, **changes: Any) -> Recipe:
    """What a model of that client is made of beside its state."""
    given: dict[str, Any] = {"config": tiny_federation(), "metrics": {"federated/acc1": 50.0}, "lineage": {"round": 1}}
    return Recipe(kind=kind, **(given | changes))
