"""Real pretrained weights through the server and a client. FEDAFD_TEST_WEIGHTS names a folder that holds them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.learning.test_pretrained import _client, _prepared, _write
from tests.learning.tiny import tiny_federation, tiny_private, tiny_public

from fedafd import GlobalModel
from fedafd.domain.config import EncoderConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.acceleration import encode_in
from fedafd.learning.pretrained import pretrained_tokenizer
from fedafd.learning.sample_encoder import SampleEncoder, encode_all
from fedafd.learning.server_round import export_global_model, initial_server_state

ALIKE = ["A dog runs over the grass.", "A puppy is running across a meadow."]
OTHER = "The bank raised its interest rates."


def weights(name: str) -> str:
    held = os.environ.get("FEDAFD_TEST_WEIGHTS")
    if held is None or not (Path(held) / name / "model.safetensors").exists():
        pytest.skip(f"FEDAFD_TEST_WEIGHTS names no folder that holds {name}")
    return str(Path(held) / name)


@torch.no_grad()
@pytest.mark.parametrize("name", ["minilm", "minilm-half"])
def test_sentences_of_one_meaning_lie_together(name: str) -> None:
    config = EncoderConfig(architecture="auto", pretrained=weights(name), max_tokens=24)
    encoder = SampleEncoder(config, Modality.TEXT, dim=8, tokenizer=pretrained_tokenizer(config)).eval()
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    pooled = torch.nn.functional.normalize(encoder.pooled(encoder.read([*ALIKE, OTHER])), dim=-1)
    similar = pooled @ pooled.T
    assert similar[0, 1] > 0.6
    assert max(similar[0, 2], similar[1, 2]) < 0.2


@pytest.mark.parametrize(("name", "least"), [("minilm", 0.9999), ("minilm-half", 0.9999), ("lite0", 0.99)])
def test_encoding_in_bfloat16_is_near_float32_and_finds_the_same(name: str, least: float) -> None:
    if name == "lite0":
        pytest.importorskip("timm", reason="the extra `vision` is not installed")
    config = EncoderConfig(architecture="auto", pretrained=weights(name), max_tokens=24, image_size=64)
    is_image = name == "lite0"
    tokenizer = None if is_image else pretrained_tokenizer(config)
    torch.manual_seed(0)
    encoder = SampleEncoder(config, Modality.IMAGE if is_image else Modality.TEXT, dim=64, tokenizer=tokenizer).eval()
    public = tiny_public()["train"]
    rows = encoder.read(public.images if is_image else sorted({text for texts in public.captions for text in texts}))
    found = []
    for mode in ("off", "bfloat16"):
        encode_in([encoder], mode, torch.device("cpu"))
        found.append(encode_all(encoder, rows, torch.device("cpu")))
    exact, near = found
    assert not np.array_equal(near, exact)
    assert float((near * exact).sum(1).min()) > least
    assert np.array_equal((near @ exact.T).argmax(1), np.arange(len(rows)))


@pytest.mark.parametrize("trainable", ["head", "lora"])
@pytest.mark.parametrize("text", ["minilm", "minilm-half"])
def test_server_and_client_train_on_real_weights_and_the_model_needs_none_of_their_folders(
    text: str, trainable: Any, tmp_path: Path
) -> None:
    pytest.importorskip("timm", reason="the extra `vision` is not installed")
    image = EncoderConfig(architecture="auto", pretrained=weights("lite0"), image_size=64, trainable=trainable)
    words = EncoderConfig(architecture="auto", pretrained=weights(text), max_tokens=16, trainable=trainable)
    config = tiny_federation(image_encoder=image, text_encoder=words)
    public = tiny_public()
    state = initial_server_state(config=config, captions=public["train"].captions, seed=3)
    made = _prepared(config, state, public)
    client = _client(config, tiny_private(ClientKind.PAIR), public, made, None)
    assert {rows.shape for rows in client.representations.values()} == {(len(public["train"]), config.embedding_dim)}
    _write(export_global_model(config=config, state=made.state, metrics={}, lineage={}), tmp_path)
    model = GlobalModel.from_pretrained(tmp_path)
    images = [Image.fromarray(each) for each in public["train"].images]
    np.testing.assert_allclose(model.embed_images(images), made.representations[Modality.IMAGE], atol=1e-4)
