"""A dual encoder as the global model as a whole: its own projections make D, and each half travels alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load
from tests.learning.dual import FAMILIES, TOKENS, WIDTH, save_dual_encoder
from tests.learning.test_automatic import same_from_its_files
from tests.learning.tiny import (
    IMAGE,
    TEXT,
    shared_files,
    tiny_client,
    tiny_federation,
    tiny_public,
    tiny_recipe,
    write_files,
)
from tests.simulation import tiny_federation as simulated
from torch.nn import functional as F
from typer.testing import CliRunner

from fedafd import GlobalModel, PersonalizedModel
from fedafd.cli.main import app
from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.encoders import Encoder
from fedafd.learning.pretrained import pretrained_tokenizer
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.server_round import distil, evaluate, export_global_model, initial_server_state, prepare
from fedafd.simulation.federation import Federation, FederationProgress

PUBLIC = tiny_public()
PICTURES = list(PUBLIC["train"].images[:3])
SENTENCES = [texts[0] for texts in PUBLIC["train"].captions[:3]] + ["two"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind in FAMILIES:
        made[kind] = tmp_path_factory.mktemp(kind)
        save_dual_encoder(kind, made[kind])
    return made


def encoder(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {"architecture": "auto", "pretrained": str(folder), "projection": "own", "image_size": 32}
    return given | {"max_tokens": TOKENS} | changes


def federation(folder: Path, **changes: Any) -> FederationConfig:
    both = {f"{modality.value}_encoder": encoder(folder, **changes) for modality in Modality}
    return tiny_federation(embedding_dim=WIDTH, **both)


def encoder_of(folder: Path, modality: Modality, *, dim: int = WIDTH, **changes: Any) -> SampleEncoder:
    config = EncoderConfig(**encoder(folder, **changes))
    tokenizer = pretrained_tokenizer(config) if modality is Modality.TEXT else None
    return SampleEncoder(config, modality, dim=dim, tokenizer=tokenizer).eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_features_are_those_of_the_whole_model_with_its_own_tokenizer(kind: str, folders: dict[str, Path]) -> None:
    reference = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folders[kind])(
        SENTENCES, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    )
    assert ("attention_mask" in inputs) is (kind != "siglip")
    inputs.pop("token_type_ids", None)
    expected = F.normalize(reference.get_text_features(**inputs).pooler_output, dim=-1)
    text = encoder_of(folders[kind], Modality.TEXT)
    torch.testing.assert_close(text(text.read(SENTENCES)).vector_BD, expected, atol=1e-5, rtol=0)
    image = encoder_of(folders[kind], Modality.IMAGE)
    pixels = image._scaled(image.read(PICTURES))
    expected = F.normalize(reference.get_image_features(pixels).pooler_output, dim=-1)
    torch.testing.assert_close(image(image.read(PICTURES)).vector_BD, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_half_travels_alone_and_is_made_again_from_its_files(kind: str, folders: dict[str, Path]) -> None:
    for modality, other in ((Modality.IMAGE, "text"), (Modality.TEXT, "vi")):
        encoder = encoder_of(folders[kind], modality)
        held = [name.removeprefix("backbone.model.") for name in load(encoder.to_files()["model.safetensors"])]
        assert not [name for name in held if name.startswith((other, "logit"))]
        # Twice: what an encoder says of itself must be enough, whoever says it.
        again = SampleEncoder.from_files(encoder.to_files())
        with torch.no_grad():
            same_from_its_files(again, PICTURES if modality is Modality.IMAGE else SENTENCES)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_text_half_with_its_own_pooler_pools_as_the_whole_model(kind: str, folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders[kind], Modality.TEXT, projection="new", pooling="pooler")
    reference = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    ids = encoder.read(SENTENCES)
    torch.testing.assert_close(
        encoder.pooled(ids), reference.text_model(input_ids=ids).pooler_output, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("trainable", ["all", "head", "lora"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_round_with_a_dual_encoder_as_the_global_model(
    kind: str, trainable: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    if trainable == "lora":
        pytest.importorskip("peft")
    config = federation(folders[kind], trainable=trainable)
    state = initial_server_state(config=config, captions=PUBLIC["train"].captions, seed=3)
    before = evaluate(config=config, state=state, samples=PUBLIC["test"], device="cpu")
    made = prepare(config=config, state=state, public=PUBLIC["train"], round_number=1, seed=4, device="cpu")
    own: dict[str, Any] = {"image_encoder": EncoderConfig(**IMAGE), "text_encoder": EncoderConfig(**TEXT)}
    pair = tiny_client(ClientKind.PAIR, config, made, **own)
    same = tiny_client(ClientKind.IMAGE, config, made)
    assert {modality: reps.shape[1] for modality, reps in pair.representations.items()} == dict.fromkeys(
        Modality, WIDTH
    )
    taught = distil(
        config=config,
        state=made.state,
        public=PUBLIC["train"],
        representations=made.representations,
        aggregates=pair.representations,
        round_number=1,
        seed=6,
        device="cpu",
    )
    after = evaluate(config=config, state=taught, samples=PUBLIC["test"], device="cpu")
    assert not np.array_equal(after.scores, before.scores)

    exported = export_global_model(config=config, state=taught, metrics={}, lineage={})
    assert "lora" not in json.loads(exported["text/config.json"])["encoder"]["trainable"]
    model = GlobalModel.from_pretrained(write_files(exported, tmp_path / "global"), device="cpu")
    assert model.dim == WIDTH
    for number, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    asked = ["search", tmp_path / "global", SENTENCES[0], "--images", tmp_path, "--device", "cpu", "--json"]
    found = CliRunner().invoke(app, [*map(str, asked), "--index", str(tmp_path / "index"), "--top-k", "1"])
    assert found.exit_code == 0, found.output
    (hit,) = json.loads(found.stdout)["hits"]
    likeness = model.embed_images(PICTURES) @ model.embed_texts(SENTENCES[:1])[0]
    assert hit["likeness"] == pytest.approx(likeness.max(), abs=1e-5)

    files = shared_files(tiny_recipe(ClientKind.IMAGE, config=config), state=same.state, bundles=made.bundles)
    site = PersonalizedModel.from_pretrained(write_files(files, tmp_path / "site"), device="cpu")
    assert len(site.predict(PICTURES)) == len(PICTURES)


def test_simulate_runs_with_a_dual_encoder(folders: dict[str, Path]) -> None:
    config = simulated.config("fedafd").model_copy(
        update={
            "embedding_dim": WIDTH,
            "image_encoder": EncoderConfig(**encoder(folders["clip"], trainable="head")),
            "text_encoder": EncoderConfig(**encoder(folders["clip"], trainable="head")),
        }
    )
    federation = Federation(config, simulated.public_set(), simulated.clients(), device="cpu")
    last = federation.run_round(federation.run_round(FederationProgress()))
    assert last.server is not None
    assert all(np.isfinite(value) for value in last.server.metrics.values())


def test_a_width_other_than_the_federations_is_refused_with_the_right_one(folders: dict[str, Path]) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"embedding_dim: 8, but .* makes {WIDTH}; set embedding_dim: {WIDTH}"
    ):
        encoder_of(folders["clip"], Modality.IMAGE, dim=8)


def test_weights_that_are_no_dual_encoder_are_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = transformers.AutoConfig.for_model("vit", **sizes, image_size=32, patch_size=8)
    transformers.AutoModel.from_config(vision).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="is no dual encoder"):
        encoder_of(tmp_path, Modality.IMAGE)


@pytest.mark.parametrize("tokens", [TOKENS - 1, TOKENS + 1])
def test_texts_of_another_length_than_the_last_pooled_position_are_refused(
    tokens: int, folders: dict[str, Path]
) -> None:
    with pytest.raises(ConfigurationError, match=f"max_tokens: {tokens}, but .* {TOKENS}"):
        encoder_of(folders["siglip"], Modality.TEXT, max_tokens=tokens)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"architecture": "resnet"}, "architecture: auto"), ({"pooling": "cls"}, "leave `pooling` out")],
)
def test_what_goes_not_with_an_own_projection_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        EncoderConfig(**{"architecture": "auto", "projection": "own"} | changes)


def test_the_projection_begins_as_what_changes_nothing(folders: dict[str, Path]) -> None:
    made: Encoder = encoder_of(folders["clip"], Modality.TEXT).network
    assert torch.equal(made.projection.weight, torch.eye(WIDTH))
    assert not made.projection.bias.any()
