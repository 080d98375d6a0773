"""Experiments that come with FedAFD."""

from __future__ import annotations

from typing import Any

__all__ = ["EXPERIMENTS"]

_COMPARED = ["fedafd", "creamfl", "fedmd", "fedavg", "local", "self-distillation", "probe"]
_ABLATED = [
    "fedafd-no-alignment",
    "fedafd-adversarial",
    "fedafd-no-fusion",
    "fedafd-no-alone-branch",
    "fedafd-tokens",
    "fedafd-mean",
    "fedafd-no-self",
    "fedafd-no-distillation",
]
_SMALL_PUBLIC: dict[str, Any] = {"adapter": "flickr", "path": "flickr8k", "options": {"role": "public"}}
_SMALL_CLIENTS: list[dict[str, Any]] = [
    {"kind": "image", "count": 2, "parts": 4, "adapter": "cifar100", "path": "cifar100"},
    {"kind": "text", "count": 2, "parts": 12, "adapter": "ag-news", "path": "ag_news_csv"},
    {"kind": "pair", "count": 2, "adapter": "flickr", "path": "flickr8k", "options": {"role": "private"}},
]
_SCENARIOS: dict[str, Any] = {"iid": {"scheme": "iid"}, "dirichlet": {"scheme": "dirichlet", "alpha": 0.1}}

EXPERIMENTS: dict[str, dict[str, Any]] = {
    # Real cuts (docs/data.md) on two CPU cores.
    "small": {
        "name": "small",
        "rounds": 6,
        "federation": {
            "preset": "small",
            "embedding_dim": 128,
            "image_encoder": {"image_size": 32},
            "text_encoder": {"options": {"embedding_size": 64, "hidden_size": 64}},
            # A global model that already knows something, as the paper's pretrained one does: docs/adr/0010.
            "server": {"initial_passes": 36, "passes": 3, "learning_rate": 2e-3, "schedule_rounds": 6},
        },
        "public": _SMALL_PUBLIC,
        "clients": _SMALL_CLIENTS,
        "scenarios": _SCENARIOS,
        "strategies": {name: {} for name in [*_COMPARED, *_ABLATED]},
    },
    # The same cuts with encoders that know something: small pretrained ones, frozen, for the server and the sites.
    "pretrained": {
        "name": "pretrained",
        "rounds": 5,
        "federation": {"preset": "pretrained", "server": {"schedule_rounds": 5}},
        "public": _SMALL_PUBLIC,
        "clients": _SMALL_CLIENTS,
        "scenarios": _SCENARIOS,
        "strategies": {name: {} for name in [*_COMPARED, *_ABLATED]},
    },
    # FedAFD, CVPR 2026, arXiv 2603.04890: 3 image, 3 text and 4 pair clients, 10,000 MS-COCO pairs, 40 rounds. A GPU.
    "paper": {
        "name": "paper",
        "rounds": 40,
        "federation": {"preset": "paper"},
        "public": {"adapter": "coco", "path": "coco", "options": {"limit": 10_000}},
        "clients": [
            {
                "kind": "image",
                "count": 3,
                "adapter": "cifar100",
                "path": "cifar-100-python",
                "image_encoder": {
                    "architecture": "resnet",
                    "image_size": 64,
                    "options": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
                },
            },
            {
                "kind": "text",
                "count": 3,
                "adapter": "ag-news",
                "path": "ag_news_csv",
                "text_encoder": {"architecture": "bigru", "max_tokens": 64},
            },
            {
                "kind": "pair",
                "count": 4,
                "adapter": "flickr",
                "path": "flickr30k",
                "image_encoder": {
                    "architecture": "resnet",
                    "image_size": 224,
                    "options": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
                },
                "text_encoder": {"architecture": "bigru", "max_tokens": 64},
            },
        ],
        "scenarios": _SCENARIOS,
        "strategies": {name: {} for name in [*_COMPARED, *_ABLATED]},
    },
}
