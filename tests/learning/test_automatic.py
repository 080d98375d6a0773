"""Encoders of any family, by AutoModel: tiny ones of each, made here and saved as hubs hold them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.learning.test_pretrained import save_tokenizer

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.encoders import build_encoder
from fedafd.learning.lora import merged_files
from fedafd.learning.pretrained import pretrained_tokenizer
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.tokens import build_tokenizer
from fedafd.learning.trainable import trainable_parameters

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = {"vocab_size": 20, "pad_token_id": 8, "bos_token_id": 1, "eos_token_id": 2}
PATCHES = SMALL | {"image_size": 32, "patch_size": 8}
TEXTS: dict[str, dict[str, Any]] = {
    "bert": SMALL | WORDS,
    "roberta": SMALL | WORDS,
    "xlm-roberta": SMALL | WORDS,
    "mpnet": SMALL | WORDS,
    "deberta-v2": SMALL | WORDS,
    "modernbert": SMALL | WORDS | {"cls_token_id": 1, "sep_token_id": 2},
    "electra": SMALL | WORDS | {"embedding_size": 8},
}
IMAGES: dict[str, dict[str, Any]] = {
    "swin": {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    },
    "dinov2": PATCHES,
    "dinov3_convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "dinov3_vit": PATCHES,
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "vit": PATCHES,
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "siglip_vision_model": PATCHES,
    "clip_vision_model": PATCHES,
}
DUAL = ["clip", "siglip"]
TIMM = ["resnet10t", "test_efficientnet", "test_vit"]
SENTENCES = ["a red circle", "blue square a red circle a blue square"]
PICTURES = [np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)]


def saved(folder: Path, kind: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **options)).to(dtype)
    model.save_pretrained(folder)
    return model.float().eval()


def encoder_of(folder: Path, modality: Modality) -> SampleEncoder:
    config = EncoderConfig(architecture="auto", pretrained=str(folder), image_size=32, max_tokens=12)
    tokenizer = pretrained_tokenizer(config) if modality is Modality.TEXT else None
    return SampleEncoder(config, modality, dim=8, tokenizer=tokenizer).eval()


def same_from_its_files(encoder: SampleEncoder, samples: list[Any]) -> None:
    again = SampleEncoder.from_files(encoder.to_files())
    assert again.config == encoder.config
    assert torch.equal(again.read(samples), encoder.read(samples))
    weights, held = encoder.state_dict(), again.state_dict()
    assert weights.keys() == held.keys()
    assert all(torch.equal(held[name], weight) for name, weight in weights.items())
    # Kernels round by where in memory a weight lies: of mapped files it lies elsewhere.
    torch.testing.assert_close(
        again(again.read(samples)).vector_BD, encoder(encoder.read(samples)).vector_BD, atol=1e-6, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("kind", TEXTS)
def test_text_encoder_of_any_family_is_the_saved_one_averaged_over_its_words(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    reference = saved(tmp_path, kind, TEXTS[kind], dtype)
    save_tokenizer(tmp_path)
    encoder = encoder_of(tmp_path, Modality.TEXT)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    # Of one sentence without padding the transformers model needs no mask, so its mean is a measure apart.
    ids = torch.tensor([[1, 3, 4, 6, 2]])
    positions, weights = encoder.network.backbone(encoder.read(SENTENCES))
    mean = torch.einsum("p,pc->c", weights[0], positions[0])
    torch.testing.assert_close(mean, reference(input_ids=ids).last_hidden_state[0].mean(0), atol=1e-5, rtol=1e-4)
    same_from_its_files(encoder, SENTENCES)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("kind", IMAGES)
def test_image_encoder_of_any_family_is_the_saved_one(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    reference = saved(tmp_path, kind, IMAGES[kind], dtype)
    encoder = encoder_of(tmp_path, Modality.IMAGE)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    pixels = torch.rand(2, 3, 32, 32)
    hidden = reference(pixels).last_hidden_state
    expected = hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden
    torch.testing.assert_close(encoder.network.backbone(pixels)[0], expected)
    same_from_its_files(encoder, PICTURES)


@torch.no_grad()
@pytest.mark.parametrize("kind", DUAL)
def test_each_half_of_a_dual_encoder_is_read_alone_and_in_silence(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    words = SMALL | WORDS | {"max_position_embeddings": 16}
    config = transformers.AutoConfig.for_model(kind, text_config=words, vision_config=PATCHES)
    reference = transformers.AutoModel.from_config(config).eval()
    reference.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    capfd.readouterr()
    image, text = encoder_of(tmp_path, Modality.IMAGE), encoder_of(tmp_path, Modality.TEXT)
    assert capfd.readouterr() == ("", "")
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(
        image.network.backbone(pixels)[0], reference.vision_model(pixel_values=pixels).last_hidden_state
    )
    ids = text.read(SENTENCES)
    expected = reference.text_model(input_ids=ids, attention_mask=(ids != 8).long()).last_hidden_state
    positions, _ = text.network.backbone(ids)  # without the columns that are padding in both rows
    torch.testing.assert_close(positions, expected[:, : int((ids != 8).sum(1).max())])
    same_from_its_files(image, PICTURES)
    same_from_its_files(text, SENTENCES)


@torch.no_grad()
@pytest.mark.parametrize("name", TIMM)
def test_timm_folder_brings_its_weights_and_pixel_scale(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra `vision` is not installed")
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    side = model.pretrained_cfg["input_size"][-1]
    config = EncoderConfig(architecture="auto", pretrained=str(tmp_path), image_size=side)
    encoder = SampleEncoder(config, Modality.IMAGE, dim=8).eval()
    pixels = torch.rand(1, 3, side, side)
    hidden = model.forward_features(pixels)
    expected = hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden
    torch.testing.assert_close(encoder.network.backbone(pixels)[0], expected)
    assert encoder.config.image_mean == pytest.approx(model.pretrained_cfg["mean"])
    assert encoder.config.image_std == pytest.approx(model.pretrained_cfg["std"])
    same_from_its_files(encoder, PICTURES)


FRESH = [*((Modality.TEXT, kind) for kind in TEXTS), *((Modality.IMAGE, kind) for kind in IMAGES)]


@pytest.mark.parametrize("trainable", ["head", "lora"])
@pytest.mark.parametrize(("modality", "kind"), FRESH, ids=str)
def test_of_any_family_a_head_or_matrices_alone_are_trained_and_a_merged_folder_gives_the_same(
    modality: Modality, kind: str, trainable: Any
) -> None:
    if trainable == "lora" and find_spec("peft") is None:
        pytest.skip("the extra `lora` is not installed")
    is_text = modality is Modality.TEXT
    options = {"model_type": kind} | {k: v for k, v in (TEXTS | IMAGES)[kind].items() if k not in WORDS}
    config = EncoderConfig(architecture="auto", options=options, image_size=32, max_tokens=12, trainable=trainable)
    torch.manual_seed(0)
    encoder = SampleEncoder(config, modality, dim=8, tokenizer=build_tokenizer(SENTENCES) if is_text else None)
    before = {name: weight.clone() for name, weight in encoder.network.named_parameters()}
    samples: list[Any] = SENTENCES if is_text else PICTURES
    for _ in range(2):  # the first of LoRA's matrices has no gradient while the second is zero
        encoder.train()(encoder.rows(samples)).vector_BD[:, 0].sum().backward()
        torch.optim.SGD(trainable_parameters(encoder), lr=0.5).step()
    moved = {name for name, weight in encoder.network.named_parameters() if not torch.equal(weight, before[name])}
    assert {name.partition(".")[0] for name in moved} == (
        {"projection"} if trainable == "head" else {"projection", "backbone"}
    )
    assert all(".lora_" in name for name in moved if name.startswith("backbone."))
    plain = SampleEncoder.from_files(merged_files(encoder.eval().to_files()))
    assert plain.config.trainable == ("all" if trainable == "lora" else "head")
    rows = encoder.read(samples)
    torch.testing.assert_close(plain(rows).vector_BD, encoder(rows).vector_BD, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "`model_type` is missing"),
        ({"model_type": "no-such-family"}, "no-such-family"),
        ({"model_type": "timm_wrapper", "architecture": "hf-hub:someone/model"}, "only the plain name"),
        ({"model_type": "timm_wrapper", "architecture": "local-dir:/tmp/x"}, "only the plain name"),
        ({"model_type": "timm_wrapper", "architecture": "a", "model_args": {"checkpoint_path": "x"}}, "model_args"),
        ({"model_type": "detr", "backbone": "someone/model"}, "may load code"),
        ({"model_type": "clip", "vision_config": {"auto_map": {"AutoModel": "x"}}}, "may load code"),
        ({"model_type": "roberta"} | SMALL, "is no encoder of image"),
    ],
)
def test_options_that_make_no_encoder_or_fetch_one_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        build_encoder(EncoderConfig(architecture="auto", options=options), Modality.IMAGE, dim=8, vocabulary=9)


def test_more_tokens_than_the_family_reads_are_refused(tmp_path: Path) -> None:
    """RoBERTa's positions begin behind its padding: of 20 it can use 11."""
    saved(tmp_path, "roberta", TEXTS["roberta"] | {"max_position_embeddings": 20})
    save_tokenizer(tmp_path)
    with pytest.raises(ConfigurationError, match="max_tokens 12"):
        encoder_of(tmp_path, Modality.TEXT)


def test_code_in_the_weights_folder_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}')
    with pytest.raises(ConfigurationError):
        build_encoder(EncoderConfig(architecture="auto", pretrained=str(tmp_path)), Modality.IMAGE, dim=8)
    assert not mark.exists()


def test_documented_families_are_those_that_are_tested() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = {"text": TEXTS, "image": IMAGES, "one half of a dual encoder": DUAL, "image, where timm is installed": TIMM}
    for modality, kinds in rows.items():
        assert f"| {modality} | {', '.join(f'`{kind}`' for kind in sorted(kinds))}" in page
