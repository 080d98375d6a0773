"""What a site writes into a bundle's layout: its own frozen tensors, each once and as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from tests.agent.test_own_weights import DIM, KIND, checkpoint
from torch import Tensor

from fedafd.artifacts.bundle_heads import BundleHead, bundle_head
from fedafd.artifacts.folders import pack_folder
from fedafd.domain.config import EncoderConfig
from fedafd.domain.kinds import Modality
from fedafd.learning.own_weights import OwnPart, write_own_part
from fedafd.learning.sample_encoder import SampleEncoder

NAME = "backbone.model.encoder.stages.0.layers.0.layer.0.convolution.weight"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("weights") / "resnet")


@pytest.fixture(scope="module")
def frozen(weights: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors by their names in a bundle."""
    config = EncoderConfig(pretrained=str(weights), trainable="head", **KIND)
    network = SampleEncoder(config, Modality.IMAGE, dim=DIM).network
    return {name: value for name, value in network.state_dict().items() if not name.startswith("projection.")}


def written(tensors: dict[str, Tensor], weights: Path, target: Path) -> tuple[OwnPart, bytes]:
    """What a site makes of a bundle with these tensors, whose bytes are not known to it."""
    bundle = pack_folder({"model.safetensors": save(tensors)})
    head = bundle_head(bundle, len(bundle))
    assert isinstance(head, BundleHead)
    config = EncoderConfig(pretrained=str(weights), trainable="lora", **KIND)
    part = write_own_part(target, bundle[: head.num_bytes], head, len(bundle), config, Modality.IMAGE, DIM)
    made = target.read_bytes()
    assert len(made) == len(bundle)
    return part, made[head.num_bytes :]


def test_all_that_is_frozen_is_written_where_it_lies(weights: Path, frozen: Any, tmp_path: Path) -> None:
    tensors = frozen | {"projection.weight": torch.ones(DIM, 128)}
    part, _ = written(tensors, weights, tmp_path / "base")
    assert part.num_bytes == sum(value.nbytes for value in frozen.values())
    assert sum(span.end - span.start for span in part.spans) == part.num_bytes
    assert (tmp_path / "base").read_bytes().count(frozen[NAME].numpy().tobytes()) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.float64])
def test_a_tensor_in_another_type_is_not_made(weights: Path, frozen: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    part, content = written({NAME: frozen[NAME].to(dtype)}, weights, tmp_path / "base")
    assert not part.spans and not content.strip(b"\0")


def test_a_tensor_that_is_named_several_times_is_written_once(weights: Path, frozen: Any, tmp_path: Path) -> None:
    names = [NAME, *(NAME.replace(".", ".base_layer.", count) for count in range(1, 8))]
    part, content = written({name: frozen[NAME].clone() for name in names}, weights, tmp_path / "base")
    assert len(part.spans) == 1
    assert content.count(frozen[NAME].numpy().tobytes()) == 1


def test_another_shape_is_not_written(weights: Path, frozen: Any, tmp_path: Path) -> None:
    part, content = written({NAME: frozen[NAME].flatten()}, weights, tmp_path / "base")
    assert not part.spans and not content.strip(b"\0")
