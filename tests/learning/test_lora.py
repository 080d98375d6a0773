"""LoRA: the base's bits stay, small matrices learn and travel apart from it, and an exported model needs no peft."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tests.learning.tiny import (
    IMAGE,
    shared_files,
    tiny_client,
    tiny_federation,
    tiny_private,
    tiny_public,
    tiny_recipe,
    tiny_server,
    write_files,
)
from torch import Tensor, nn

from fedafd.artifacts.folders import unpack_folder
from fedafd.domain.config import EncoderConfig, FederationConfig, LoraConfig, parse_federation_config
from fedafd.domain.errors import ConfigurationError, DataError, StateUnusableError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.checkpoint import Checkpoint, tensors_below
from fedafd.learning.client_model import make_client_model
from fedafd.learning.client_round import ClientRound
from fedafd.learning.encoders import Encoder
from fedafd.learning.fedavg import average_updates, group_of, load_average, weight_update
from fedafd.learning.lora import add_adapters, merged_files, merged_tensors
from fedafd.learning.model_sums import SUMS
from fedafd.learning.personalized_export import write_personalized_model
from fedafd.learning.personalized_model import PersonalizedModel
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.server_round import Prepared, distil, export_global_model
from fedafd.learning.tokens import build_tokenizer
from fedafd.learning.waypoints import NOWHERE, Waypoints

# Looked for, not imported: every worker collects this file, and peft takes seconds.
pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="the extra `lora` is not installed")
PUBLIC = tiny_public()
BERT = {
    "architecture": "bert",
    "max_tokens": 16,
    "options": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "hidden_dropout_prob": 0.1,
    },
}
LORA = {"trainable": "lora", "lora": {"rank": 2, "alpha": 4}}


class InterruptedHereError(Exception):
    """Stands for a process that ends."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def federation(**changes: Any) -> FederationConfig:
    return tiny_federation(**({"image_encoder": IMAGE | LORA, "text_encoder": BERT | LORA} | changes))


def encoder_of(config: dict[str, Any], modality: Modality = Modality.TEXT) -> SampleEncoder:
    torch.manual_seed(3)
    tokenizer = build_tokenizer(captions()) if modality is Modality.TEXT else None
    return SampleEncoder(EncoderConfig(**config), modality, dim=16, tokenizer=tokenizer).eval()


def captions() -> list[str]:
    return [text for texts in PUBLIC["train"].captions for text in texts]


def with_learned_matrices(made: SampleEncoder) -> SampleEncoder:
    """They start as zero in product; as if something had been learned."""
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    return made


@pytest.fixture(scope="module")
def begun() -> tuple[bytes, Prepared]:
    return tiny_server(federation())


def client(
    kind: ClientKind, made: Prepared, state: bytes | None = None, config: FederationConfig | None = None, **more: Any
) -> ClientRound:
    return tiny_client(kind, config or federation(), made, state, **more)


def backbones(state: bytes, *, adapters: bool) -> dict[str, Tensor]:
    found = Checkpoint.from_bytes(state).tensors
    return {n: v for n, v in found.items() if ".backbone." in n and n[:4] != "main" and (".lora_" in n) is adapters}


def samples(kind: ClientKind) -> Any:
    test: Any = tiny_private(kind).test
    return test.images if kind is ClientKind.IMAGE else test.texts


@pytest.mark.parametrize("kind", ClientKind)
def test_the_base_keeps_its_bits_for_server_and_client_and_the_matrices_learn(
    kind: ClientKind, begun: tuple[bytes, Prepared]
) -> None:
    state, made = begun
    first = client(kind, made)
    second = client(kind, made, first.state)
    distilled = distil(
        config=federation(),
        state=made.state,
        public=PUBLIC["train"],
        representations=made.representations,
        aggregates={m: np.roll(rows, 1, axis=0) for m, rows in made.representations.items()},
        round_number=1,
        seed=6,
        device="cpu",
    )
    for before, after in ((state, made.state), (made.state, distilled), (first.state, second.state)):
        base, later = (backbones(each, adapters=False) for each in (before, after))
        assert base.keys() == later.keys()
        assert all(torch.equal(value, later[name]) for name, value in base.items())
        matrices, later = (backbones(each, adapters=True) for each in (before, after))
        assert matrices
        assert any(not torch.equal(value, later[name]) for name, value in matrices.items())


@pytest.mark.parametrize(
    ("config", "modality", "ends"),
    [
        (BERT, Modality.TEXT, {"query", "value"}),
        ({"architecture": "bigru"}, Modality.TEXT, {"attention"}),
        (IMAGE, Modality.IMAGE, {"convolution"}),
    ],
)
def test_without_targets_attention_then_linear_layers_then_convolutions_are_chosen(
    config: dict[str, Any], modality: Modality, ends: set[str]
) -> None:
    made = encoder_of(config | LORA, modality)
    assert made.config.lora is not None
    assert {name.rpartition(".")[2] for name in made.config.lora.targets or ()} == ends
    trained = {name for name, parameter in made.network.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("projection.") or ".lora_" in name for name in trained)


@pytest.mark.parametrize(("config", "modality"), [(BERT, Modality.TEXT), (IMAGE, Modality.IMAGE)])
def test_a_merged_folder_gives_the_same_features_and_needs_no_peft(
    config: dict[str, Any], modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = with_learned_matrices(encoder_of(config | LORA, modality))
    rows = made.read(captions()[:6] if modality is Modality.TEXT else PUBLIC["train"].images[:6])
    files = made.to_files()
    assert torch.equal(SampleEncoder.from_files(files)(rows).vector_BD, made(rows).vector_BD)
    monkeypatch.setitem(sys.modules, "peft", None)
    plain = SampleEncoder.from_files(merged_files(files))
    assert plain.config.trainable == "all"
    torch.testing.assert_close(plain(rows).vector_BD, made(rows).vector_BD, atol=1e-5, rtol=1e-5)
    base = encoder_of(config, modality)
    assert plain.network.state_dict().keys() == base.network.state_dict().keys()
    assert (base(rows).vector_BD - made(rows).vector_BD).abs().max() > 1e-3
    assert merged_files(base.to_files()) == base.to_files()
    with pytest.raises(ConfigurationError, match=r"pip install fedafd\[lora\]"):
        encoder_of(config | LORA, modality)


@pytest.mark.parametrize("targets", [["dense", "no_such"], ["embeddings"], ["LayerNorm"]])
def test_a_target_that_names_no_layer_is_an_error_that_tells_those_there_are(targets: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=f"ends in {targets[-1]}; there are dense, key"):
        encoder_of(BERT | {"trainable": "lora", "lora": {"targets": targets}})


def test_targets_that_are_given_are_taken_by_the_ends_of_their_names() -> None:
    made = encoder_of(BERT | {"trainable": "lora", "lora": {"targets": ["attention.output.dense"]}})
    assert made.config.lora == LoraConfig(targets=("model.encoder.layer.0.attention.output.dense",))
    again = SampleEncoder.from_files(made.to_files())
    assert again.config == made.config


@pytest.mark.parametrize("shape", [{"stride": 2, "padding": 1}, {"padding": "same"}, {"kernel_size": (3, 1)}])
def test_matrices_of_a_convolution_of_any_shape_are_merged(shape: dict[str, Any]) -> None:
    torch.manual_seed(1)
    whole, plain = (Encoder(nn.Sequential(nn.Conv2d(3, 4, **{"kernel_size": 3} | shape)), 4, 8) for _ in range(2))
    taken = add_adapters(whole, LoraConfig(rank=2))
    nn.init.normal_(whole.get_parameter("backbone.0.lora_B.default.weight"))
    plain.load_state_dict(merged_tensors(taken, whole.state_dict()))
    pixels = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(whole.backbone(pixels), plain.backbone(pixels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("odd", [{"dilation": 2}, {"padding": 1, "padding_mode": "circular"}, {"groups": 3}])
def test_a_convolution_whose_matrices_could_not_be_merged_is_left_out(odd: dict[str, Any]) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 3, 3, **odd), nn.Conv2d(3, 4, 1))
    assert add_adapters(Encoder(layers, 4, 8), LoraConfig(rank=2)).targets == ("1",)
    with pytest.raises(ConfigurationError, match="has no linear layer and no convolution"):
        add_adapters(Encoder(nn.Sequential(nn.Conv2d(3, 3, 3, **odd)), 3, 8), LoraConfig())


def test_lora_s_values_without_lora_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"text_encoder.*trainable is head"):
        parse_federation_config({"name": "x", "text_encoder": BERT | LORA | {"trainable": "head"}})


@pytest.mark.parametrize("kind", ClientKind)
def test_a_shared_model_keeps_matrices_apart_and_is_the_site_s_plain_model_where_it_is_read(
    kind: ClientKind, begun: tuple[bytes, Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = begun
    recipe, trained = tiny_recipe(kind), client(kind, made)
    monkeypatch.setitem(sys.modules, "peft", None)
    (tmp_path / "state").write_bytes(trained.state)
    paths = {modality: tmp_path / modality.value for modality in kind.modalities}
    for modality, path in paths.items():
        path.write_bytes(made.bundles[modality])
    write_personalized_model(tmp_path / "model", recipe, state=tmp_path / "state", bundles=paths)
    assert not [path for path in (tmp_path / "model").rglob("*.safetensors") if b"lora_" in path.read_bytes()]
    files = shared_files(recipe, state=trained.state, bundles=made.bundles)
    for modality, bundle in made.bundles.items():
        if modality in kind.modalities:
            of_global = {path: files[f"global/{modality.value}/{path}"] for path in unpack_folder(bundle)}
            assert of_global == unpack_folder(bundle), "known by its bytes"
            assert b"lora_" in files[f"local/{modality.value}/model.safetensors"]
    shared = PersonalizedModel.from_pretrained(write_files(files, tmp_path / "shared"))
    own = PersonalizedModel.from_pretrained(tmp_path / "model")
    if kind is ClientKind.PAIR:
        test: Any = tiny_private(kind).test
        for name, given in (("embed_images", test.images), ("embed_texts", [texts[0] for texts in test.captions])):
            np.testing.assert_array_equal(getattr(shared, name)(given), getattr(own, name)(given))
    else:
        assert shared.predict(samples(kind)) == own.predict(samples(kind))
        assert len(own.predict(samples(kind))) == 24


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {name: value for name, value in tensors.items() if ".lora_A." not in name},
        lambda tensors: tensors | {name: value[:, :3] for name, value in tensors.items() if ".lora_A." in name},
        lambda tensors: tensors | {name: value[0] for name, value in tensors.items() if ".lora_B." in name},
    ],
    ids=["gone", "narrower", "a row"],
)
def test_matrices_that_do_not_fit_are_refused_by_name_where_the_model_is_read(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], begun: tuple[bytes, Prepared], tmp_path: Path
) -> None:
    trained = client(ClientKind.TEXT, begun[1])
    files = shared_files(tiny_recipe(ClientKind.TEXT), state=trained.state, bundles=begun[1].bundles)
    name = "local/text/model.safetensors"
    changed = files | {name: save({k: v.contiguous() for k, v in change(load(files[name])).items()})}
    folder = write_files({path: content for path, content in changed.items() if path != SUMS}, tmp_path / "model")
    with pytest.raises(DataError, match=f"{folder}/local/text: describes no encoder that its weights are of"):
        PersonalizedModel.from_pretrained(folder)


def test_the_published_global_model_holds_plain_weights(begun: tuple[bytes, Prepared]) -> None:
    files = export_global_model(config=federation(), state=begun[1].state, metrics={"rsum": 1.0}, lineage={"round": 1})
    assert not any(b"lora_" in content for path, content in files.items() if path.endswith(".safetensors"))
    for modality in Modality:
        assert SampleEncoder.from_files(files, f"{modality.value}/").config.trainable == "all"


def test_averaging_sends_what_is_trained_alone_among_those_of_one_base() -> None:
    config = federation(strategy="fedavg")
    _, made = tiny_server(config)
    kind = ClientKind.TEXT
    one, other = client(kind, made, config=config).state, client(kind, made, config=config, seed=9).state
    assert group_of(one) == group_of(other)
    update = tensors_below(Checkpoint.from_bytes(weight_update(one, 3)).tensors, "model")
    assert any(".lora_A." in name for name in update)
    assert all(".lora_" in name for name in update if ".backbone." in name)
    (average,) = average_updates([weight_update(one, 3), weight_update(other, 1)]).values()
    checkpoint = Checkpoint.from_bytes(one)
    model = make_client_model(config, kind, checkpoint)
    checkpoint.load_module("model", model)
    load_average(model, average, checkpoint.meta["labels"])
    after = model.state_dict()
    for name, value in tensors_below(checkpoint.tensors, "model").items():
        if ".backbone." in name and ".lora_" not in name:
            assert torch.equal(after[name], value), name
    name = next(name for name in update if ".lora_A." in name)
    theirs = tensors_below(Checkpoint.from_bytes(other).tensors, "model")[name]
    torch.testing.assert_close(after[name], 0.75 * update[name] + 0.25 * theirs)
    next(v for n, v in checkpoint.tensors.items() if "base_layer.weight" in n).add_(1.0)
    assert group_of(checkpoint) != group_of(other)


def test_a_client_that_is_ended_in_its_training_goes_on_to_the_same_bits(
    begun: tuple[bytes, Prepared], tmp_path: Path
) -> None:
    config = federation(client={"local_epochs": 2}, text_encoder=BERT | {"trainable": "lora", "lora": {"dropout": 0.2}})
    whole = client(ClientKind.TEXT, begun[1], config=config, waypoints=NOWHERE)

    def until_half(share: float, _: Any) -> None:
        if share > 0.45:
            raise InterruptedHereError

    with pytest.raises(InterruptedHereError):
        client(
            ClientKind.TEXT,
            begun[1],
            config=config,
            waypoints=Waypoints(tmp_path, every_seconds=0),
            progress=until_half,
        )
    assert list(tmp_path.iterdir())
    found = client(ClientKind.TEXT, begun[1], config=config, waypoints=Waypoints(tmp_path, every_seconds=0))
    assert found.state == whole.state


def test_a_state_follows_another_dropout_and_refuses_other_matrices(begun: tuple[bytes, Prepared]) -> None:
    first = client(ClientKind.TEXT, begun[1]).state

    def going_on(**changes: Any) -> list[str]:
        encoder = EncoderConfig.model_validate(federation().text_encoder.model_dump() | changes)
        return [each.case for each in client(ClientKind.TEXT, begun[1], first, text_encoder=encoder).differences]

    assert going_on(lora={"rank": 2, "alpha": 4, "dropout": 0.5}) == ["encoder-dropout"]
    for changes in ({"lora": {"rank": 4, "alpha": 4}}, {"trainable": "all", "lora": None}):
        with pytest.raises(StateUnusableError, match="encoder"):
            going_on(**changes)
