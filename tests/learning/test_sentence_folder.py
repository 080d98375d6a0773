"""Pooling and prefix of text encoders, by configuration or as a sentence-transformers folder says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning.test_automatic import SENTENCES, SMALL, TEXTS, same_from_its_files, saved
from tests.learning.test_pretrained import save_tokenizer

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.encoders import build_encoder
from fedafd.learning.pretrained import pretrained_tokenizer
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.sentence_folder import text_reading

BERT = SMALL | {"vocab_size": 20, "pad_token_id": 8}
OLD, NEW = "sentence_transformers.models.Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"


def sentence_folder(
    folder: Path, pooling: dict[str, Any], *, prompts: dict[str, Any] | None = None, kind: str = OLD
) -> None:
    """What SentenceTransformer.save_pretrained writes beside the weights."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": kind},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))


def flags(*on: str) -> dict[str, Any]:
    names = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    return {"word_embedding_dimension": 16} | {f"pooling_mode_{name}": name in on for name in names}


def encoder_of(folder: Path, architecture: str = "auto", **options: Any) -> SampleEncoder:
    config = EncoderConfig(architecture=architecture, pretrained=str(folder), max_tokens=12, **options)
    return SampleEncoder(config, Modality.TEXT, dim=8, tokenizer=pretrained_tokenizer(config)).eval()


def in_double(reference: Any, encoder: SampleEncoder, texts: list[str], pooling: str) -> torch.Tensor:
    """Each text alone, without padding, in float64: pooled, projected, brought to length 1."""
    rows = []
    for text in texts:
        ids = encoder.read([text])[0]
        answer = reference(input_ids=ids[ids != 8].unsqueeze(0))
        hidden = answer.last_hidden_state[0]
        rows.append({"mean": hidden.mean(0), "cls": hidden[0], "pooler": answer.pooler_output[0]}[pooling])
    projection = encoder.network.projection
    made = torch.stack(rows) @ projection.weight.double().T + projection.bias.double()
    unit: torch.Tensor = made / made.norm(dim=1, keepdim=True)
    return unit


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["bert", "auto"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_each_pooling_equals_an_oracle_in_double_and_survives_its_files(
    pooling: str, architecture: str, tmp_path: Path
) -> None:
    reference = saved(tmp_path, "bert", BERT).double()
    save_tokenizer(tmp_path)
    encoder = encoder_of(tmp_path, architecture, pooling=pooling)
    found = encoder(encoder.read(SENTENCES))
    torch.testing.assert_close(
        found.vector_BD.double(), in_double(reference, encoder, SENTENCES, pooling), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(found.weights_BP.sum(1), torch.ones(len(SENTENCES)))
    same_from_its_files(encoder, SENTENCES)


@pytest.mark.parametrize(
    ("held", "kind", "expected"),
    [
        (flags("cls_token"), OLD, "cls"),
        (flags("mean_tokens"), OLD, "mean"),
        ({"embedding_dimension": 16, "pooling_mode": "cls"}, NEW, "cls"),
        ({"embedding_dimension": 16, "pooling_mode": ["mean"]}, NEW, "mean"),
    ],
)
def test_pooling_is_that_of_the_sentence_transformers_folder(
    held: dict[str, Any], kind: str, expected: str, tmp_path: Path
) -> None:
    sentence_folder(tmp_path, held, kind=kind)
    config = EncoderConfig(architecture="auto", pretrained=str(tmp_path))
    assert text_reading(config, Modality.TEXT).pooling == expected
    set_by_hand = config.model_copy(update={"pooling": "pooler"})
    assert text_reading(set_by_hand, Modality.TEXT).pooling == "pooler"


@pytest.mark.parametrize("held", [flags("max_tokens"), flags("cls_token", "mean_tokens"), flags(), {}, []])
def test_pooling_that_is_not_known_is_refused_until_it_is_set(held: Any, tmp_path: Path) -> None:
    sentence_folder(tmp_path, held)
    config = EncoderConfig(architecture="auto", pretrained=str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"1_Pooling/config\.json: pools by .* set `pooling`"):
        text_reading(config, Modality.TEXT)
    assert text_reading(config.model_copy(update={"pooling": "mean"}), Modality.TEXT).prefix == ""


@torch.no_grad()
def test_default_prompt_of_the_folder_stands_before_each_text_and_the_configuration_wins(tmp_path: Path) -> None:
    saved(tmp_path, "roberta", TEXTS["roberta"])
    save_tokenizer(tmp_path)
    prompts = {"prompts": {"query": "a red ", "passage": "blue "}, "default_prompt_name": "query"}
    sentence_folder(tmp_path, flags("cls_token"), prompts=prompts)
    own, other, plain = encoder_of(tmp_path), encoder_of(tmp_path, prefix="blue "), encoder_of(tmp_path, prefix="")
    assert torch.equal(own.read(["circle"]), plain.read(["a red circle"]))
    assert torch.equal(other.read(["circle"]), plain.read(["blue circle"]))
    assert not torch.equal(own.read(["circle"]), plain.read(["circle"]))
    same_from_its_files(own, SENTENCES)


def test_damaged_file_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[{")
    with pytest.raises(ConfigurationError, match=r"modules\.json: cannot be read"):
        text_reading(EncoderConfig(architecture="bert", pretrained=str(tmp_path)), Modality.TEXT)


def test_pooler_whose_weights_are_missing_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "bert", BERT)
    save_tokenizer(tmp_path)
    from safetensors.torch import load_file, save_file

    held = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in held.items() if "pooler" not in k}, tmp_path / "model.safetensors", {"format": "pt"})
    for architecture in ("bert", "auto"):
        encoder_of(tmp_path, architecture)
        with pytest.raises(ConfigurationError, match=r"pooler\.dense"):
            encoder_of(tmp_path, architecture, pooling="pooler")


@pytest.mark.parametrize(
    ("architecture", "options", "modality"),
    [
        ("distilbert", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}, Modality.TEXT),
        ("auto", {"model_type": "deberta-v2"} | TEXTS["deberta-v2"], Modality.TEXT),
        ("bigru", {}, Modality.TEXT),
        ("vit", SMALL, Modality.IMAGE),
    ],
)
def test_encoder_without_a_pooler_is_refused(architecture: str, options: dict[str, Any], modality: Modality) -> None:
    with pytest.raises(ConfigurationError, match="pooling"):
        build_encoder(
            EncoderConfig(architecture=architecture, options=options, pooling="pooler"), modality, dim=8, vocabulary=20
        )
