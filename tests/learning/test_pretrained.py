"""Pretrained backbones: tiny ones, made here and saved with save_pretrained, in the place of those of a hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.learning.tiny import IMAGE, TEXT, shared_files, tiny_federation, tiny_private, tiny_public
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fedafd import GlobalModel, PersonalizedModel
from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.client_round import train_client
from fedafd.learning.encoders import build_encoder
from fedafd.learning.image_processor import pixel_scale
from fedafd.learning.personalized_export import Recipe
from fedafd.learning.pretrained import pretrained_tokenizer
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.server_round import evaluate, export_global_model, initial_server_state, prepare

SIZES: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "vit": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "patch_size": 8,
        "image_size": 32,
    },
    "bert": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
}
# As hubs hold them: the backbone within a model with a head, whose names carry a prefix.
SAVED = {
    "resnet": "ResNetForImageClassification",
    "convnextv2": "ConvNextV2ForImageClassification",
    "vit": "ViTForImageClassification",
    "bert": "BertForMaskedLM",
    "distilbert": "DistilBertForMaskedLM",
}
WORDS = ["[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "circle", "square", "[PAD]"]


def saved(architecture: str, folder: Path, **options: Any) -> Path:
    model_class = getattr(transformers, SAVED[architecture])
    torch.manual_seed(0)
    model_class(model_class.config_class(**SIZES[architecture] | options)).save_pretrained(folder)
    return folder


def saved_text(architecture: str, folder: Path) -> Path:
    """With a tokenizer whose padding is not 0."""
    saved(architecture, folder, vocab_size=20, pad_token_id=8)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def saved_image(architecture: str, folder: Path) -> Path:
    saved(architecture, folder)
    values = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("architecture", SIZES)
def test_backbone_starts_from_the_saved_weights(architecture: str, tmp_path: Path) -> None:
    text = architecture in ("bert", "distilbert")
    folder = saved_text(architecture, tmp_path) if text else saved_image(architecture, tmp_path)
    modality = Modality.TEXT if text else Modality.IMAGE
    config = EncoderConfig(architecture=architecture, pretrained=str(folder), image_size=32, max_tokens=8)
    encoder = SampleEncoder(config, modality, dim=8, tokenizer=pretrained_tokenizer(config) if text else None).eval()
    reference = getattr(transformers, SAVED[architecture]).from_pretrained(folder).base_model.eval()
    if text:
        rows = encoder.read(["a red circle", "blue square a red circle a blue square"])
        assert rows.tolist() == [[1, 3, 4, 6, 2, 8, 8, 8], [1, 5, 7, 3, 4, 6, 3, 2]]
        with torch.no_grad():
            hidden = reference(input_ids=rows, attention_mask=(rows != 8).long()).last_hidden_state
            positions, weights = encoder.network.backbone(rows)
        torch.testing.assert_close(positions, hidden)
        torch.testing.assert_close(weights[0], torch.tensor([0.2] * 5 + [0.0] * 3))
        return
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    rows = encoder.read([image])
    seen: list[torch.Tensor] = []
    encoder.network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(rows)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(seen[0][0], (rows[0] / 255 - mean) / std)
    with torch.no_grad():
        hidden = reference(seen[0]).last_hidden_state
        positions, _ = encoder.network.backbone(seen[0])
    torch.testing.assert_close(positions, hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden)


HALVES = (torch.float16, torch.bfloat16)


def halved(folder: Path, dtype: torch.dtype) -> Path:
    """The same folder with its weights and its config.json in half precision, as hubs hold most weights now."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=dtype)
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    return folder


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("architecture", SIZES)
def test_weights_stored_in_half_precision_are_trained_in_float32(
    architecture: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    text = architecture in ("bert", "distilbert")
    folder = halved(saved_text(architecture, tmp_path) if text else saved_image(architecture, tmp_path), dtype)
    config = EncoderConfig(architecture=architecture, pretrained=str(folder), image_size=32, max_tokens=8)
    modality = Modality.TEXT if text else Modality.IMAGE
    encoder = SampleEncoder(config, modality, dim=8, tokenizer=pretrained_tokenizer(config) if text else None)
    held = {name: tensor.dtype for name, tensor in encoder.state_dict().items() if tensor.is_floating_point()}
    assert set(held.values()) == {torch.float32}, held
    stored = transformers.AutoModel.from_pretrained(folder).state_dict()
    for name, tensor in encoder.network.backbone.model.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, stored[name].to(tensor.dtype)), name
    assert "dtype" not in encoder.config.options


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_whole_round_starts_from_weights_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    config, public = pretrained_federation(tmp_path), tiny_public()
    for name in ("resnet", "bert"):
        halved(tmp_path / name, dtype)
    state = initial_server_state(config=config, captions=public["train"].captions, seed=3)
    made = _prepared(config, state, public)
    first = _client(config, tiny_private(ClientKind.PAIR), public, made, None)
    second = _client(config, tiny_private(ClientKind.PAIR), public, made, first.state)
    assert all(np.isfinite(rows).all() for rows in second.representations.values())


def pretrained_federation(folder: Path, **changes: object) -> FederationConfig:
    image = {"architecture": "resnet", "pretrained": str(saved_image("resnet", folder / "resnet")), "image_size": 32}
    text = {"architecture": "bert", "pretrained": str(saved_text("bert", folder / "bert")), "max_tokens": 8}
    return tiny_federation(image_encoder=image, text_encoder=text, **changes)


def test_a_round_needs_the_pretrained_folders_once_and_its_models_never(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    config, public = pretrained_federation(weights), tiny_public()
    state = initial_server_state(config=config, captions=public["train"].captions, seed=3)
    private = tiny_private(ClientKind.PAIR)
    first = _client(config, private, public, _prepared(config, state, public), None)
    weights.rename(tmp_path / "away")
    made = _prepared(config, state, public)
    client = _client(config, private, public, made, first.state)
    metrics = evaluate(config=config, state=made.state, samples=public["test"], device="cpu").metrics
    _write(export_global_model(config=config, state=made.state, metrics=metrics, lineage={}), tmp_path / "global")
    model = GlobalModel.from_pretrained(tmp_path / "global")
    images = [Image.fromarray(image) for image in public["train"].images]
    np.testing.assert_allclose(model.embed_images(images), made.representations[Modality.IMAGE], atol=1e-5)
    texts = [captions[0] for captions in public["train"].captions]
    np.testing.assert_allclose(model.embed_texts(texts), made.representations[Modality.TEXT], atol=1e-5)
    recipe = Recipe(config=config, kind=ClientKind.PAIR, metrics={}, lineage={})
    files = shared_files(recipe, state=client.state, bundles=made.bundles)
    _write(files, tmp_path / "client")
    assert PersonalizedModel.from_pretrained(tmp_path / "client").embed_texts(texts).shape == (48, 16)
    described = json.loads((tmp_path / "global" / "image" / "preprocessor_config.json").read_text())
    assert described["image_mean"] == [0.485, 0.456, 0.406]


def test_the_configuration_wins_over_the_preprocessor(tmp_path: Path) -> None:
    folder = str(saved_image("resnet", tmp_path))
    given = EncoderConfig(architecture="resnet", pretrained=folder, image_mean=(0.1, 0.2, 0.3))
    assert pixel_scale(given) == ((0.1, 0.2, 0.3), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}, 0.5, 0.5),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 0.5, 0.5),
    ],
    ids=str,
)
def test_every_way_to_say_a_pixel_scale(values: dict[str, Any], mean: float, std: float, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    found = pixel_scale(EncoderConfig(architecture="resnet", pretrained=str(tmp_path)))
    assert found[0] == pytest.approx((mean,) * 3)
    assert found[1] == pytest.approx((std,) * 3)


def test_without_a_preprocessor_our_own_scale_stays(tmp_path: Path) -> None:
    found = pixel_scale(EncoderConfig(architecture="resnet", pretrained=str(saved("resnet", tmp_path))))
    assert found == ((0.5,) * 3, (0.25,) * 3)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = saved("resnet", tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even looked at")
    with pytest.raises(ConfigurationError, match=r"pytorch_model\.bin is a pickle.*only safetensors"):
        _image(EncoderConfig(architecture="resnet", pretrained=str(folder)))


def test_a_folder_without_weights_says_what_it_needs(tmp_path: Path) -> None:
    folder = saved("resnet", tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"needs config\.json, model\.safetensors and preprocessor"):
        _image(EncoderConfig(architecture="resnet", pretrained=str(folder)))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    folder = saved("vit", tmp_path)
    with pytest.raises(ConfigurationError, match="are of a vit, but the encoder's architecture is resnet"):
        _image(EncoderConfig(architecture="resnet", pretrained=str(folder), image_size=32))


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = saved("resnet", tmp_path) / "model.safetensors"
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if "stages.1" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match="do not hold a whole resnet"):
        _image(EncoderConfig(architecture="resnet", pretrained=str(tmp_path), image_size=32))


def test_sizes_that_the_weights_cannot_take_are_refused(tmp_path: Path) -> None:
    vit = EncoderConfig(architecture="vit", pretrained=str(saved("vit", tmp_path / "vit")), image_size=64)
    with pytest.raises(ConfigurationError, match="image_size: 64, but .* needs 32"):
        _image(vit)
    folder = saved("bert", tmp_path / "bert", max_position_embeddings=16)
    with pytest.raises(ConfigurationError, match="max_tokens: 32, but .* reads at most 16"):
        build_encoder(EncoderConfig(architecture="bert", pretrained=str(folder)), Modality.TEXT, dim=8)


def test_an_encoder_of_ours_has_no_pretrained_weights() -> None:
    with pytest.raises(ConfigurationError, match="starts from fresh weights"):
        build_encoder(EncoderConfig(**TEXT | {"pretrained": "x"}), Modality.TEXT, dim=8, vocabulary=9)


@pytest.mark.parametrize(
    ("encoder", "name", "file"),
    [
        ("image_encoder", "microsoft/resnet-101", "preprocessor_config"),
        ("text_encoder", "bert-base-uncased", "tokenizer"),
    ],
)
def test_offline_the_paper_preset_names_what_is_missing_and_where_to_put_it(
    encoder: str, name: str, file: str, tmp_path: Path
) -> None:
    other = {"image_encoder": IMAGE, "text_encoder": TEXT} | {encoder: None}
    code = f"""
from fedafd.domain.config import parse_federation_config
from fedafd.domain.errors import FedafdError
from fedafd.learning.server_round import initial_server_state
others = {{key: value for key, value in {other!r}.items() if value}}
for values in others.values():
    values.setdefault("pretrained", None)
config = parse_federation_config({{"name": "x", "preset": "paper"}} | others)
try:
    initial_server_state(config=config, captions=[("a",)], seed=0)
except FedafdError as error:
    print(error)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert name in done.stdout
    assert str(tmp_path / "hub") in done.stdout
    assert file in done.stdout
    assert "name its path in place of the id" in done.stdout


def _image(config: EncoderConfig) -> None:
    build_encoder(config, Modality.IMAGE, dim=8)


def _prepared(config: FederationConfig, state: bytes, public: Any) -> Any:
    return prepare(config=config, state=state, public=public["train"], round_number=1, seed=4, device="cpu")


def _client(config: FederationConfig, data: Any, public: Any, made: Any, state: bytes | None) -> Any:
    return train_client(
        config=config,
        kind=ClientKind.PAIR,
        image_encoder=None,
        text_encoder=None,
        data=data,
        public=public["train"],
        global_representations=made.representations,
        bundles=made.bundles,
        state=state,
        round_number=1,
        seed=5,
        device="cpu",
    )


def _write(files: dict[str, bytes], folder: Path) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
