"""The paper preset has the numbers of the paper, each written down in the preset itself."""

from __future__ import annotations

from typing import Any

import pytest

from fedafd.domain.config import (
    parse_federation_config,
)
from fedafd.domain.presets import PRESETS

PAPER = {
    # algorithm's table "Paper defaults": D, batch; rounds, local epochs
    "embedding_dim": 256,
    "client.image.batch_size": 256,
    "client.text.batch_size": 256,
    "client.pair.batch_size": 128,
    "server.batch_size": 128,
    "server.schedule_rounds": 40,
    "client.local_epochs": 5,
    # server: ResNet-101 + BERT-base, AdamP lr 1e-5, cosine over 40 rounds, half precision, clip 2
    "image_encoder.architecture": "resnet",
    "image_encoder.pretrained": "microsoft/resnet-101",
    "text_encoder.architecture": "bert",
    "text_encoder.pretrained": "bert-base-uncased",
    "server.optimizer": "adamp",
    "server.learning_rate": 1e-5,
    "server.schedule": "cosine",
    "server.autocast": "auto",
    "server.clip_norm": 2.0,
    # one pass over the public set for training and one for distillation
    "server.passes": 1,
    "distillation.passes": 1,
    "distillation.joint": False,
    "distillation.start_round": 1,
    # image client: SGD lr 0.05 momentum 0.9 wd 5e-5, x0.1 at 50 % and 80 % of the rounds
    "client.image.optimizer": "sgd",
    "client.image.learning_rate": 0.05,
    "client.image.momentum": 0.9,
    "client.image.weight_decay": 5e-5,
    "client.image.schedule": "steps",
    # text client: SGD lr 0.02, same schedule
    "client.text.optimizer": "sgd",
    "client.text.learning_rate": 0.02,
    "client.text.schedule": "steps",
    # pair client: AdamP lr 1e-5
    "client.pair.optimizer": "adamp",
    "client.pair.learning_rate": 1e-5,
    # discriminators: Adam lr 1e-4; lambda 0.5; discriminators then encoder over a whole public pass, unbalanced
    "alignment.mode": "adversarial",
    "alignment.discriminator_learning_rate": 1e-4,
    "alignment.weight": 0.5,
    "alignment.schedule": "separate",
    "alignment.max_gradient_share": None,
    "alignment.centre": False,
    # fusion: Adam lr 5e-3 wd 0.01 (image, text); lr 1e-4 wd 0.1 (pair); AFF with bottleneck ratio 4 and norms
    "client.image.fusion_learning_rate": 5e-3,
    "client.image.fusion_weight_decay": 0.01,
    "client.text.fusion_learning_rate": 5e-3,
    "client.text.fusion_weight_decay": 0.01,
    "client.pair.fusion_learning_rate": 1e-4,
    "client.pair.fusion_weight_decay": 0.1,
    "fusion.reduction": 4,
    "fusion.mode": "tokens",
    "fusion.inner_norm": True,
    "fusion.zero_init": False,
    "fusion.normalise_output": False,
    "fusion.calibrate_gate": False,
    "fusion.auxiliary_weight": 0.0,
    "client.image.gate_init": 0.0,
    "client.text.gate_init": 0.0,
    "client.pair.gate_init": 0.0,
    # losses: a and b start at 15; 0.5 * class separation; tau 1, beta 0.4
    "server.loss_scale": 15.0,
    "client.loss_scale": 15.0,
    "client.separation_weight": 0.5,
    "distillation.ensemble": "similarity",
    "distillation.temperature": 1.0,
    "distillation.weight": 0.4,
    "distillation.self_share": 0.0,
    "client.pair.public_weight": 1.0,
    "distillation.centre": False,
    "distillation.normalise_aggregate": False,
}


@pytest.mark.parametrize("path", PAPER)
def test_the_paper_preset_keeps_the_paper_to_the_letter(path: str) -> None:
    found = parse_federation_config({"name": "trial", "preset": "paper"}).model_dump(mode="json")
    written: Any = PRESETS["paper"]
    for part in path.split("."):
        found, written = found[part], written[part]
    assert found == PAPER[path]
    assert written == PAPER[path], "the preset says it itself, whatever the defaults become"
