"""Presets of `federation.yaml`: values that stand under those the file sets itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS", "merged"]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, block by block. An encoder of another architecture has none of the options of `base`."""
    out = dict(base)
    if base.get("architecture") != over.get("architecture", base.get("architecture")):
        out.pop("options", None)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


_TINY_RESNET = {
    "architecture": "resnet",
    "options": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "layer_type": "basic"},
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Two CPU cores, minutes: tiny encoders and few local epochs.
    "small": {
        "image_encoder": _TINY_RESNET,
        "text_encoder": {"architecture": "bigru", "options": {"embedding_size": 128, "hidden_size": 128}},
        "client": {"local_epochs": 2},
    },
    # A global model that knows something from the start, and frozen backbones, so that two CPU cores bear it. Both
    # checkpoints are 4.7 and 22.7 million weights. The image encoder needs the extra `vision`.
    "pretrained": {
        "embedding_dim": 128,
        "image_encoder": {
            "architecture": "auto",
            "pretrained": "timm/tf_efficientnet_lite0.in1k",
            "image_size": 128,
            "trainable": "head",
        },
        "text_encoder": {
            "architecture": "auto",
            "pretrained": "sentence-transformers/all-MiniLM-L6-v2",
            "max_tokens": 32,
            "trainable": "head",
        },
        # Projections alone are trained: many passes cost little.
        "server": {"initial_passes": 20, "passes": 3, "learning_rate": 2e-3},
        "client": {"local_epochs": 2},
    },
    # FedAFD, CVPR 2026, arXiv 2603.04890 and its published code.
    "paper": {
        "embedding_dim": 256,
        "image_encoder": {"architecture": "resnet", "pretrained": "microsoft/resnet-101", "image_size": 224},
        "text_encoder": {"architecture": "bert", "pretrained": "bert-base-uncased", "max_tokens": 64},
        "server": {
            "passes": 1,
            "batch_size": 128,
            "optimizer": "adamp",
            "learning_rate": 1e-5,
            "schedule": "cosine",
            "schedule_rounds": 40,
            "loss_scale": 15.0,
            "clip_norm": 2.0,
            "autocast": "auto",
        },
        "client": {
            "local_epochs": 5,
            "loss_scale": 15.0,
            "separation_weight": 0.5,
            "image": {
                "batch_size": 256,
                "optimizer": "sgd",
                "learning_rate": 0.05,
                "momentum": 0.9,
                "weight_decay": 5e-5,
                "schedule": "steps",
                "fusion_learning_rate": 5e-3,
                "fusion_weight_decay": 0.01,
                "gate_init": 0.0,
            },
            "text": {
                "batch_size": 256,
                "optimizer": "sgd",
                "learning_rate": 0.02,
                "momentum": 0.9,
                "weight_decay": 5e-5,
                "schedule": "steps",
                "fusion_learning_rate": 5e-3,
                "fusion_weight_decay": 0.01,
                "gate_init": 0.0,
            },
            "pair": {
                "batch_size": 128,
                "optimizer": "adamp",
                "learning_rate": 1e-5,
                "fusion_learning_rate": 1e-4,
                "fusion_weight_decay": 0.1,
                "gate_init": 0.0,
                "public_weight": 1.0,
            },
        },
        "alignment": {
            "mode": "adversarial",
            "weight": 0.5,
            "schedule": "separate",
            "discriminator_learning_rate": 1e-4,
            "max_gradient_share": None,
            "centre": False,
        },
        "fusion": {
            "mode": "tokens",
            "reduction": 4,
            "inner_norm": True,
            "zero_init": False,
            "normalise_output": False,
            "calibrate_gate": False,
            "alone_branch": False,
            "auxiliary_weight": 0.0,
        },
        "distillation": {
            "ensemble": "similarity",
            "temperature": 1.0,
            "self_share": 0.0,
            "weight": 0.4,
            "start_round": 1,
            "passes": 1,
            "joint": False,
            "centre": False,
            "normalise_aggregate": False,
            "weight_cap": None,
        },
    },
}
