"""Encoders of timm in whole rounds: frozen backbones, and LoRA's matrices inside timm's own layers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.learning.test_automatic import TIMM
from tests.learning.tiny import write_files
from tests.simulation.tiny_federation import FEDERATION, clients, public_set

from fedafd import GlobalModel
from fedafd.artifacts.folders import unpack_folder
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.server_round import export_global_model
from fedafd.simulation.federation import Federation, FederationProgress

TARGETS = {"resnet10t": "downsample.1", "test_efficientnet": "conv_pw", "test_vit": "qkv"}
"""The end of a layer's name that is among the default targets of each, and that learns from timm's random weights."""


def federation(name: str, trainable: str, folder: Path) -> FederationConfig:
    """With a folder of timm's of random weights as the image encoder of the server and of every site."""
    timm = pytest.importorskip("timm", reason="the extra `vision` is not installed")
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    save_for_hf(model, folder, safe_serialization=True)
    side = 32 if name != "test_vit" else model.pretrained_cfg["input_size"][-1]
    image = {"architecture": "auto", "pretrained": str(folder), "image_size": side, "trainable": trainable}
    return parse_federation_config({"name": "tiny"} | FEDERATION | {"image_encoder": image})


def backbone(state: bytes) -> dict[str, torch.Tensor]:
    tensors = Checkpoint.from_bytes(state).tensors
    return {name: value for name, value in tensors.items() if "/image." in name and ".backbone." in name}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("trainable", ["head", "lora"])
@pytest.mark.parametrize("name", TIMM)
def test_server_and_clients_train_heads_and_matrices_of_a_timm_folder(
    name: str, trainable: str, tmp_path: Path
) -> None:
    if trainable == "lora" and find_spec("peft") is None:
        pytest.skip("the extra `lora` is not installed")
    torch.set_num_threads(1)
    config = federation(name, trainable, tmp_path / "timm")
    taking_part = [client for client in clients() if client.kind is not ClientKind.TEXT and client.name[-1] == "1"]
    run = Federation(config, public_set(), taking_part, device="cpu")
    rounds = [run.run_round(FederationProgress())]
    (tmp_path / "timm" / "model.safetensors").unlink()  # states hold all that later rounds need
    rounds.append(run.run_round(rounds[0]))
    first, last = (each.server_state or b"" for each in rounds)
    moved = {key for key, value in backbone(last).items() if not torch.equal(value, backbone(first)[key])}
    if trainable == "head":
        assert not moved
    else:
        assert moved
        assert all(".lora_" in key for key in moved)
        assert any(f"{TARGETS[name]}.lora_B" in key for key in moved)
    bundles = [json.loads(unpack_folder(each.bundles[Modality.IMAGE])["config.json"]) for each in rounds]
    assert [bundle["encoder"]["trainable"] for bundle in bundles] == [trainable] * 2
    for client in taking_part:
        own = Checkpoint.from_bytes(rounds[1].clients[client.name].state or b"").tensors
        assert any(".lora_" in key for key in own) == (trainable == "lora")
        assert all(np.isfinite(value) for value in rounds[1].clients[client.name].metrics.values())
        assert rounds[1].traffic[client.name].down < rounds[0].traffic[client.name].down
    write_files(export_global_model(config=config, state=last, metrics={}, lineage={}), tmp_path / "model")
    pictures = [Image.fromarray(each) for each in public_set()["val"].images]
    rows = GlobalModel.from_pretrained(tmp_path / "model").embed_images(pictures)
    assert rows.shape == (len(pictures), config.embedding_dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
