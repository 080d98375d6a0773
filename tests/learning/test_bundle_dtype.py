"""Trained weights of an encoder bundle travel in half precision where the federation says so; sites read float32."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.learning.tiny import IMAGE, tiny_client, tiny_federation, tiny_public, tiny_server

from fedafd.artifacts.folders import unpack_folder
from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.lora import merged_files
from fedafd.learning.sample_encoder import SampleEncoder

LORA = {"trainable": "lora", "lora": {"rank": 2, "alpha": 4}}


def header(bundle: bytes) -> dict[str, str]:
    """The dtype of each tensor, as safetensors' header says it."""
    weights = unpack_folder(bundle)["model.safetensors"]
    described = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    return {name: value["dtype"] for name, value in described.items() if name != "__metadata__"}


def federation(**changes: Any) -> FederationConfig:
    return tiny_federation(**changes)


@pytest.mark.parametrize(
    ("trainable", "given", "narrow"),
    [("all", None, False), ("all", "float16", True), ("lora", None, True), ("lora", "float32", False)],
)
def test_trained_weights_alone_travel_as_the_federation_says(trainable: str, given: str | None, narrow: bool) -> None:
    if trainable == "lora":
        pytest.importorskip("peft")
    image = IMAGE | (LORA if trainable == "lora" else {})
    _, made = tiny_server(federation(image_encoder=image, bundle_dtype=given))
    encoder = SampleEncoder.from_files(unpack_folder(made.bundles[Modality.IMAGE]))
    trained = {name for name, parameter in encoder.network.named_parameters() if parameter.requires_grad}
    dtypes = header(made.bundles[Modality.IMAGE])
    halves = {name for name, dtype in dtypes.items() if dtype == "F16"}
    assert trained
    assert halves == (trained if narrow else set())
    assert all(value.dtype != torch.float16 for value in encoder.network.state_dict().values())


def test_sites_train_with_such_a_bundle_and_its_features_are_those_of_the_server_to_half_precision() -> None:
    config = federation(bundle_dtype="float16")
    _, made = tiny_server(config)
    _, whole = tiny_server(federation(bundle_dtype="float32"))
    for modality, bundle in made.bundles.items():
        # What the server itself made is the same whatever the bundle's type.
        np.testing.assert_array_equal(made.representations[modality], whole.representations[modality])
        sent, kept = (SampleEncoder.from_files(unpack_folder(each[modality])) for each in (made.bundles, whole.bundles))
        public = tiny_public()["train"]
        samples = public.images if modality is Modality.IMAGE else [texts[0] for texts in public.captions]
        with torch.inference_mode():
            rows = sent.read(samples[:8])
            torch.testing.assert_close(sent(rows).vector_BD, kept(rows).vector_BD, atol=5e-3, rtol=5e-3)
        assert len(bundle) < 0.8 * len(whole.bundles[modality])
    result = tiny_client(ClientKind.PAIR, config, made, None)
    assert all(np.isfinite(rows).all() for rows in result.representations.values())


def test_a_tensor_that_half_precision_cannot_hold_stays_as_it_is() -> None:
    encoder = SampleEncoder(EncoderConfig(**IMAGE), Modality.IMAGE, dim=16)
    with torch.no_grad():
        encoder.network.get_parameter("projection.weight")[0, 0] = 1e5
    weights = SampleEncoder.from_files(encoder.to_files(trained_in=torch.float16)).network.state_dict()
    assert torch.equal(weights["projection.weight"], encoder.network.state_dict()["projection.weight"])
    assert weights["projection.weight"].dtype == torch.float32


def test_matrices_that_came_in_half_precision_are_merged_in_float32() -> None:
    pytest.importorskip("peft")
    encoder = SampleEncoder(EncoderConfig(**(IMAGE | LORA)), Modality.IMAGE, dim=16).eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    files = encoder.to_files(trained_in=torch.float16)
    merged, plain = SampleEncoder.from_files(merged_files(files)), SampleEncoder.from_files(files)
    with torch.inference_mode():
        rows = encoder.read(tiny_public()["train"].images[:6])
        torch.testing.assert_close(merged(rows).vector_BD, plain(rows).vector_BD, atol=1e-5, rtol=1e-5)
