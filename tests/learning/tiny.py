"""A federation and data small enough to train in a second; what tests of learning share."""

from __future__ import annotations

from fedafd.datasets.samples import ClientData, PairSplit
from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.kinds import ClientKind

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
