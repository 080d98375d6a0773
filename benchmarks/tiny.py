"""The federation of benchmarks' smoke tests: the smallest encoders, whose figures mean nothing."""

from __future__ import annotations

from typing import Any

__all__ = ["TINY_FEDERATION"]

TINY_FEDERATION: dict[str, Any] = {
    "embedding_dim": 16,
    "image_encoder": {
        "image_size": 16,
        "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    },
    "text_encoder": {"max_tokens": 8, "options": {"embedding_size": 8, "hidden_size": 8}},
    "server": {"batch_size": 16},
    "client": {"local_epochs": 1},
}
