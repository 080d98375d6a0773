"""What of an encoder is trained."""

from __future__ import annotations

import torch

from fedafd.domain.config import EncoderConfig
from fedafd.domain.kinds import Modality
from fedafd.learning.tower import Tower
from fedafd.learning.trainable import freeze_backbone, trainable_parameters


def test_a_frozen_backbone_is_bit_equal_after_training_steps_and_only_the_rest_moves() -> None:
    options = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    tower = Tower(EncoderConfig(architecture="resnet", options=options, image_size=16), Modality.IMAGE, dim=4)
    freeze_backbone(tower.encoder)
    before = {name: value.clone() for name, value in tower.encoder.state_dict().items()}
    optimizer = torch.optim.SGD(trainable_parameters(tower), lr=0.5)
    tower.train()
    rows = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    for _ in range(2):
        optimizer.zero_grad()
        tower(rows).vector_BD[:, 0].sum().backward()
        optimizer.step()
    after = tower.encoder.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(name.startswith("backbone.") for name in changed)
