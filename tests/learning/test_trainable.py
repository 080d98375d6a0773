"""What of an encoder is trained: with `head` the backbone's bits stay, and its features are computed once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.learning.tiny import IMAGE, TEXT, tiny_client, tiny_federation, tiny_public, tiny_server
from torch import Tensor

from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning import feature_cache
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.feature_cache import FeatureCache, backbone_digest, keep_features, watched
from fedafd.learning.sample_encoder import SampleEncoder, is_pooled
from fedafd.learning.server_round import distil, evaluate
from fedafd.learning.tokens import build_tokenizer
from fedafd.learning.trainable import trainable_parameters

PUBLIC = tiny_public()
HEAD = {"trainable": "head"}


@pytest.fixture(autouse=True)
def fresh_cache() -> Any:
    torch.set_num_threads(1)
    keep_features(None)
    yield
    keep_features(None)


def encoders_of(trainable: str = "head") -> dict[Modality, SampleEncoder]:
    torch.manual_seed(3)
    captions = [text for texts in PUBLIC["train"].captions for text in texts]
    return {
        Modality.IMAGE: SampleEncoder(EncoderConfig(**IMAGE, trainable=trainable), Modality.IMAGE, dim=16),
        Modality.TEXT: SampleEncoder(
            EncoderConfig(**TEXT, trainable=trainable),
            Modality.TEXT,
            dim=16,
            tokenizer=build_tokenizer(captions),
        ),
    }


def samples(modality: Modality) -> Any:
    return PUBLIC["train"].images if modality is Modality.IMAGE else [texts[0] for texts in PUBLIC["train"].captions]


def federation(**changes: Any) -> FederationConfig:
    encoders = {"image_encoder": IMAGE | HEAD, "text_encoder": TEXT | HEAD}
    return tiny_federation(**(encoders | changes))


def backbones(state: bytes) -> dict[str, Tensor]:
    return {name: value for name, value in Checkpoint.from_bytes(state).tensors.items() if ".backbone." in name}


@pytest.mark.parametrize("modality", Modality)
def test_features_give_what_the_whole_encoder_gives(modality: Modality) -> None:
    encoder = encoders_of()[modality].eval()
    with torch.inference_mode():
        whole = encoder(encoder.read(samples(modality))).vector_BD
        rows = encoder.rows(samples(modality))
        assert is_pooled(rows)
        made = encoder(rows)
    torch.testing.assert_close(made.vector_BD, whole, atol=1e-5, rtol=1e-5)
    assert made.tokens_BPD.shape == (len(rows), 1, 16)


def test_of_an_encoder_that_is_trained_whole_the_rows_are_its_input() -> None:
    for modality, encoder in encoders_of("all").items():
        assert torch.equal(encoder.rows(samples(modality)), encoder.read(samples(modality)))
        assert len(list(trainable_parameters(encoder))) == len(list(encoder.parameters()))


@pytest.mark.parametrize("kind", ClientKind)
def test_the_backbones_bits_stay_for_server_and_client_and_the_rest_learns(kind: ClientKind) -> None:
    config = federation()
    before, made = tiny_server(config)
    distilled = distil(
        config=config,
        state=made.state,
        public=PUBLIC["train"],
        representations=made.representations,
        aggregates=made.representations,
        round_number=1,
        seed=6,
        device="cpu",
    )
    first = tiny_client(kind, config, made)
    second = tiny_client(kind, config, made, first.state)
    for one, other in ((before, distilled), (first.state, second.state)):
        kept = backbones(one)
        assert kept
        for name, value in backbones(other).items():
            assert torch.equal(kept[name], value), name
        assert one != other
    # Moments of what is trained alone: a projection's are of its own shape.
    moments = [name for name in Checkpoint.from_bytes(first.state).tensors if name.startswith("main/")]
    trained = [name for name in Checkpoint.from_bytes(first.state).tensors if name.startswith("model/")]
    assert len(moments) < len(trained)
    assert evaluate(config=config, state=distilled, samples=PUBLIC["test"], device="cpu").metrics["rsum"] >= 0


@pytest.mark.parametrize("kind", [ClientKind.IMAGE, ClientKind.PAIR])
def test_kept_features_and_those_computed_anew_train_to_the_same_bits(kind: ClientKind, tmp_path: Path) -> None:
    config = federation()
    keep_features(tmp_path)
    _, made = tiny_server(config)
    first = tiny_client(kind, config, made)
    files = sorted(tmp_path.iterdir())
    assert files
    keep_features(None)
    keep_features(tmp_path)  # another process: nothing in memory
    assert tiny_client(kind, config, made).state == first.state
    assert sorted(tmp_path.iterdir()) == files
    keep_features(None)
    assert tiny_client(kind, config, made).state == first.state


def test_a_second_round_asks_no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = federation()
    _, made = tiny_server(config)
    first = tiny_client(ClientKind.PAIR, config, made)
    monkeypatch.setattr(feature_cache, "_computed", None)
    assert tiny_client(ClientKind.PAIR, config, made, first.state).metrics


def test_other_weights_other_rows_and_damage_are_computed_anew(tmp_path: Path) -> None:
    encoder, other = encoders_of()[Modality.TEXT], encoders_of()[Modality.TEXT]
    with torch.no_grad():
        next(other.network.backbone.parameters()).add_(1.0)
    texts = samples(Modality.TEXT)
    cache = FeatureCache(tmp_path)
    found = cache.features(encoder, encoder.read(texts))
    assert not torch.equal(cache.features(other, other.read(texts)), found)
    assert not torch.equal(cache.features(encoder, encoder.read(texts[::-1])), found)
    kept = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(kept) == 3
    for path in kept:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert torch.equal(FeatureCache(tmp_path).features(encoder, encoder.read(texts)), found)
    for path in kept:
        path.write_bytes(b"cut")
    assert torch.equal(FeatureCache(tmp_path).features(encoder, encoder.read(texts)), found)
    assert not list(tmp_path.glob(".part-*"))


def test_what_is_interrupted_goes_on_behind_the_last_whole_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_BLOCK", 16)
    encoder = encoders_of()[Modality.TEXT]
    rows = encoder.read(samples(Modality.TEXT))
    whole = FeatureCache(None).features(encoder, rows)
    computed = feature_cache._computed
    seen: list[int] = []

    def broken(made: SampleEncoder, block: Tensor) -> Tensor:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(block))
        return computed(made, block)

    monkeypatch.setattr(feature_cache, "_computed", broken)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path).features(encoder, rows)

    def noted(made: SampleEncoder, block: Tensor) -> Tensor:
        seen.append(-1)
        return computed(made, block)

    monkeypatch.setattr(feature_cache, "_computed", noted)
    shares: list[float] = []
    with watched(shares.append):
        again = FeatureCache(tmp_path).features(encoder, rows)
    np.testing.assert_array_equal(again.numpy(), whole.numpy())
    assert seen == [16, 16, -1]
    assert shares == [0.0, 16 / 48, 32 / 48]


def test_processes_that_share_a_folder_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "_BLOCK", 16)
    encoder = encoders_of()[Modality.TEXT]
    rows = encoder.read(samples(Modality.TEXT))
    whole = FeatureCache(None).features(encoder, rows)
    computed, counts, both = feature_cache._computed, {"one": 0, "two": 0}, threading.Barrier(2)

    def slow(made: SampleEncoder, block: Tensor) -> Tensor:
        name = threading.current_thread().name
        counts[name] += 1
        if counts[name] == 1:
            both.wait(30)  # each holds its first block while the other one looks for work
        return computed(made, block)

    monkeypatch.setattr(feature_cache, "_computed", slow)
    results: dict[str, Tensor] = {}

    def compute() -> None:
        results[threading.current_thread().name] = FeatureCache(tmp_path).features(encoder, rows)

    workers = [threading.Thread(target=compute, name=name) for name in counts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sum(counts.values()) == 3
    assert all(torch.equal(result, whole) for result in results.values())


def test_padding_changes_no_feature_and_costs_a_cpu_nothing() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = EncoderConfig(architecture="bert", max_tokens=24, options=sizes, trainable="head")
    encoder = SampleEncoder(
        config, Modality.TEXT, dim=16, tokenizer=build_tokenizer(["a dog runs over the wide green field cats"])
    ).eval()
    rows = encoder.read(["a dog", "a dog runs over the wide green field", "", "cats"] * 64)
    backbone: Any = encoder.network.backbone
    lengths: list[int] = []
    handle = backbone.model.register_forward_pre_hook(
        lambda _, __, given: lengths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    features = FeatureCache(None).features(encoder, rows)
    handle.remove()
    longest = int((rows != backbone.padding).sum(1).max())
    assert max(lengths) == longest < rows.shape[1]
    assert min(lengths) < longest
    for row, feature in zip(rows, features, strict=True):
        np.testing.assert_allclose(encoder.pooled(row.unsqueeze(0))[0].detach(), feature, atol=1e-5)


def test_the_disk_holds_no_more_than_its_limit_and_a_full_one_costs_time_alone(tmp_path: Path) -> None:
    encoder = encoders_of()[Modality.TEXT]
    rows = encoder.read(samples(Modality.TEXT))
    size = FeatureCache(None).features(encoder, rows).nbytes
    cache = FeatureCache(tmp_path, limit_bytes=3 * size, memory_bytes=0)
    for shift in range(6):
        cache.features(encoder, rows.roll(shift, 0))
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file()) <= 3 * size
    (tmp_path / "file").write_bytes(b"")
    assert len(FeatureCache(tmp_path / "file").features(encoder, rows)) == len(rows)


def test_a_state_follows_when_more_or_less_of_it_is_trained() -> None:
    _, made = tiny_server(federation())
    config = tiny_federation()
    whole = tiny_client(ClientKind.IMAGE, config, made)
    frozen = tiny_client(
        ClientKind.IMAGE, config, made, whole.state, image_encoder=EncoderConfig.model_validate(IMAGE | HEAD)
    )
    assert [each.case for each in frozen.differences] == ["encoder-trainable"]
    for name, value in backbones(frozen.state).items():
        if "/alone" not in name and not name.startswith("alone"):
            assert torch.equal(value, backbones(whole.state)[name]), name
    again = tiny_client(ClientKind.IMAGE, config, made, frozen.state)
    assert [each.case for each in again.differences] == ["encoder-trainable"]
    assert any(not torch.equal(v, backbones(frozen.state)[n]) for n, v in backbones(again.state).items())


@pytest.mark.parametrize("modality", Modality)
def test_a_backbone_is_hashed_once_and_again_after_its_weights_changed(
    modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders_of()[modality]
    hashed: list[SampleEncoder] = []
    whole = feature_cache._backbone_digest

    def noted(hashing: SampleEncoder) -> str:
        hashed.append(hashing)
        return whole(hashing)

    monkeypatch.setattr(feature_cache, "_backbone_digest", noted)
    first = backbone_digest(encoder)
    assert (backbone_digest(encoder), len(hashed)) == (first, 1)
    parameter = next(encoder.network.backbone.parameters())
    with torch.no_grad():
        parameter.add_(1)
    written = backbone_digest(encoder)
    parameter.data = parameter.detach() + 1
    replaced = backbone_digest(encoder)
    encoder.network.backbone.load_state_dict(encoders_of()[modality].network.backbone.state_dict())
    assert len({first, written, replaced}) == 3
    assert backbone_digest(encoder) == first
