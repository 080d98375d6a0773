"""Encoders that cannot be made are told before a run, with where they are configured; fresh ones are not allocated."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning.dual import TOKENS, WIDTH, save_dual_encoder
from tests.learning.test_automatic import FRESH, IMAGES, TEXTS, TIMM
from tests.learning.test_pretrained import saved_image

from fedafd.cli.weights import named_weights
from fedafd.domain.config import EncoderConfig, parse_federation_config
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning import building
from fedafd.learning.image_processor import image_reading
from fedafd.learning.weights_check import WantedEncoder, check_encoders, encoders_of

BERT = {"architecture": "bert", "max_tokens": 8, "options": {"hidden_size": 16, "num_attention_heads": 2}}
HUGE = {"hidden_size": 16_384, "num_hidden_layers": 32, "num_attention_heads": 2, "intermediate_size": 16_384}
RESNET = {"architecture": "resnet", "image_size": 32, "options": {"depths": [1], "hidden_sizes": [8]}}


def check(modality: Modality, values: dict[str, Any]) -> None:
    check_encoders([WantedEncoder(f"clients[1], {modality}_encoder", EncoderConfig(**values), modality, 8)])


@pytest.mark.parametrize(
    ("modality", "values", "told"),
    [
        (
            Modality.TEXT,
            BERT | {"trainable": "lora", "lora": {"targets": ["nope"]}},
            "lora.targets: no layer's name ends in nope; there are dense",
        ),
        (Modality.TEXT, {"architecture": "auto"}, "encoder auto, options: `model_type` is missing"),
        (Modality.TEXT, {"architecture": "auto", "options": {"model_type": "robberta"}}, "encoder auto, options: "),
        (Modality.TEXT, {"architecture": "resnet"}, "encoder 'resnet' encodes image"),
        (Modality.TEXT, {"architecture": "bigru", "options": {"hidden": 3}}, "encoder bigru, options: "),
        (Modality.IMAGE, RESNET | {"options": {"layer_type": "wide"}}, "encoder resnet, options: "),
        (Modality.IMAGE, {"architecture": "rennet"}, "encoder 'rennet' is not known; installed: auto, bert"),
    ],
    ids=["target", "no-type", "unknown-type", "other-modality", "option", "value", "architecture"],
)
def test_an_encoder_that_no_weights_are_read_for_is_checked_too(
    modality: Modality, values: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        check(modality, values)
    assert str(raised.value).startswith(f"clients[1], {modality}_encoder: {told}")


@pytest.mark.parametrize("trainable", ["all", "lora"])
@pytest.mark.parametrize(("modality", "kind"), FRESH)
def test_no_family_is_refused_for_what_a_tensor_without_values_cannot_do(
    modality: Modality, kind: str, trainable: str
) -> None:
    options = {"model_type": kind} | (TEXTS if modality is Modality.TEXT else IMAGES)[kind]
    options.pop("vocab_size", None)
    options.pop("pad_token_id", None)
    size = {"image_size": 32, "max_tokens": 12}
    check(modality, {"architecture": "auto", "options": options, "trainable": trainable} | size)


@pytest.mark.parametrize("name", TIMM)
def test_no_model_of_timm_is_refused_either(name: str) -> None:
    pytest.importorskip("timm", reason="the extra `vision` is not installed")
    options = {"model_type": "timm_wrapper", "architecture": name}
    check(Modality.IMAGE, {"architecture": "auto", "image_size": 160, "options": options})


@pytest.mark.parametrize("trainable", ["all", "head", "lora"])
def test_a_fresh_encoder_takes_no_memory(trainable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This one has hundreds of gigabytes."""
    monkeypatch.setattr(building, "memory_bytes", lambda: 2**50)
    check(Modality.TEXT, BERT | {"options": HUGE, "trainable": trainable})
    assert torch.ones(1).device.type == "cpu"


def test_a_fresh_encoder_that_this_machine_cannot_hold_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not with a tensor that has values: what another process needs would be gone before it is refused."""
    monkeypatch.setattr(building, "memory_bytes", lambda: 2**33)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigurationError, match=r"^clients\[1\], text_encoder: .* than fits into 8\.0 GiB of memory"):
        check(Modality.TEXT, BERT | {"options": HUGE})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_a_dual_encoders_own_projections_are_checked_in_the_federations_width(tmp_path: Path) -> None:
    save_dual_encoder("clip", tmp_path)
    own = {"architecture": "auto", "pretrained": str(tmp_path), "projection": "own"}
    federation = {
        "name": "dual",
        "embedding_dim": WIDTH,
        "image_encoder": own | {"image_size": 32},
        "text_encoder": own | {"max_tokens": TOKENS},
    }
    check_encoders(encoders_of(parse_federation_config(federation)))
    with pytest.raises(ConfigurationError, match=f"^image_encoder: embedding_dim: 24, but .* makes {WIDTH}"):
        check_encoders(encoders_of(parse_federation_config(federation | {"embedding_dim": 24})))


@pytest.mark.parametrize("named", ["models/../nowhere", "./weights", "~/weights", "C:\\weights", "a/b/c"])
def test_a_path_without_a_folder_is_not_looked_for_on_a_hub(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for modality, architecture in ((Modality.IMAGE, "resnet"), (Modality.TEXT, "bert"), (Modality.TEXT, "auto")):
        with pytest.raises(ConfigurationError) as raised:
            check(modality, {"architecture": architecture, "pretrained": named})
        assert "there is no such folder on this machine" in str(raised.value)
        assert str(tmp_path) in str(raised.value)
        assert "hub cache" not in str(raised.value)


@pytest.mark.parametrize("resample", [17, "cubic-ish", {"kind": 3}])
def test_an_unknown_way_to_resize_is_refused(resample: Any, tmp_path: Path) -> None:
    folder = saved_image("resnet", tmp_path)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": resample}))
    config = EncoderConfig(architecture="resnet", image_size=16, pretrained=str(folder))
    with pytest.raises(ConfigurationError, match=r"not known here: \{'resample': .*set `image_interpolation`"):
        image_reading(config)
    chosen = config.model_copy(update={"image_interpolation": "bicubic"})
    assert image_reading(chosen)["image_interpolation"] == "bicubic"


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_name_of_weights_is_a_mistake(empty: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--text-weights: is empty"):
        named_weights("timm/x", empty)
