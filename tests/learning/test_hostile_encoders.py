"""Descriptions of encoders, and their tokenizers, that ask for more than is there, or for something from elsewhere."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
import torch
from safetensors.torch import save
from tests.learning.test_model_folder import no_network  # noqa: F401  # a fixture
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from fedafd.domain.config import EncoderConfig, parse_config
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import Modality
from fedafd.learning import sound_tokenizer
from fedafd.learning.building import Room, RoomError, within
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.sound_tokenizer import read_tokenizer
from fedafd.learning.tokens import build_tokenizer, token_ids

DIM = 8
TEXTS = ["A dog runs.", "Two cats sleep"]
TINY = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}


def described(modality: Modality, architecture: str, options: dict[str, Any], **encoder: Any) -> dict[str, bytes]:
    config = {
        "modality": modality.value,
        "embedding_dim": DIM,
        "encoder": {"architecture": architecture, **encoder},
        "backbone": options,
    }
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": save({"x": torch.zeros(4)})}
    if modality is Modality.TEXT:
        files["tokenizer.json"] = build_tokenizer(TEXTS).to_str().encode()
    return files


FROM_A_HUB = {"architecture": "hf-hub:someone/model"}
FROM_A_FILE = {"architecture": "resnet18", "model_args": {"checkpoint_path": "/etc/hostname"}}
KERNEL = {"model_type": "bert", "attn_implementation": "someone/kernel"}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model_type": "perception_lm", "vision_config": FROM_A_HUB, "text_config": TINY}, "architecture"),
        (
            {
                "model_type": "vision-text-dual-encoder",
                "vision_config": {"model_type": "timm_wrapper"} | FROM_A_HUB,
                "text_config": {"model_type": "bert"} | TINY,
            },
            "architecture",
        ),
        ({"model_type": "perception_lm", "vision_config": FROM_A_FILE, "text_config": TINY}, "checkpoint_path"),
        ({"model_type": "perception_lm", "vision_config": {"architecture": "local-dir:/tmp/x"}}, "local-dir"),
        ({"model_type": "vit", "parts": [{"vision_config": FROM_A_HUB}]}, "architecture"),
        ({"model_type": "encoder-decoder", "encoder": KERNEL, "decoder": {}}, "may load code"),
        ({"model_type": "musicgen", "text_encoder": {"use_backbone": "someone/model"}}, "may load code"),
    ],
)
def test_no_part_of_a_model_comes_from_elsewhere(options: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigurationError, DataError), match=said):
        SampleEncoder.from_files(described(Modality.IMAGE, "auto", options))


@pytest.mark.parametrize(
    "options",
    [{"num_labels": 10**8}, {"num_local_experts": 10**6}, {"num_queries": 10**9}, {"kv_lora_rank": 10**12}],
    ids=lambda options: next(iter(options)),
)
def test_numbers_that_no_network_has_are_refused_before_anything_is_made(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="is too much"):
        parse_config(EncoderConfig, {"architecture": "vit", "options": options}, "encoder")


def test_numbers_that_count_nothing_may_be_large() -> None:
    options = {"rope_theta": 10_000_000, "seed": 2**40, "mask_value": -1e9}
    assert EncoderConfig(architecture="auto", options=options).options == options


LARGE_WINDOW = {"window_size": 100, "image_size": 400, "patch_size": 1}


@pytest.mark.parametrize(
    ("modality", "architecture", "options"),
    [
        (Modality.IMAGE, "vit", {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}),
        (Modality.IMAGE, "resnet", {"hidden_sizes": [4] * 4, "depths": [1024] * 4, "embedding_size": 4}),
        # Where each of 10,000 positions of a window stands to each other, which it computes before it shows it.
        (
            Modality.IMAGE,
            "auto",
            {"model_type": "swin", "embed_dim": 4, "depths": [1], "num_heads": [1]} | LARGE_WINDOW,
        ),
        (Modality.TEXT, "bigru", {"embedding_size": 16_384, "hidden_size": 16_384}),
    ],
    ids=["large", "many", "window", "gru"],
)
def test_an_encoder_far_larger_than_its_weights_is_not_made(
    modality: Modality, architecture: str, options: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="more than is in its weights"):
        SampleEncoder.from_files(described(modality, architecture, options))


def test_a_projection_far_larger_than_its_weights_is_not_made() -> None:
    files = described(Modality.IMAGE, "resnet", {"hidden_sizes": [4, 4], "depths": [1, 1], "embedding_size": 4})
    config = json.loads(files["config.json"]) | {"embedding_dim": 300_000_000}
    with pytest.raises(DataError, match="more than is in its weights"):
        SampleEncoder.from_files(files | {"config.json": json.dumps(config).encode()})


def test_what_others_make_meanwhile_does_not_count_and_room_ends_with_its_block() -> None:
    with pytest.raises(RoomError, match="11 numbers"), within(Room(10, 9, "is allowed")):
        torch.nn.Linear(10, 1)  # a weight of 10, and a bias
    torch.nn.Linear(10, 10)


def with_changes(**changes: Any) -> bytes:
    return json.dumps(json.loads(build_tokenizer(TEXTS).to_str()) | changes).encode()


def padded(**changes: Any) -> dict[str, Any]:
    plain = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    return {"padding": plain | {"strategy": "BatchLongest"} | changes}


def replaced(*contents: str) -> dict[str, Any]:
    steps = [{"type": "Replace", "pattern": {"String": "a"}, "content": content} for content in contents]
    return {"normalizer": {"type": "Sequence", "normalizers": steps}}


def around(single: list[dict[str, Any]], ids: int = 1) -> dict[str, Any]:
    special = {"[X]": {"id": "[X]", "ids": [1] * ids, "tokens": ["[X]"] * ids}}
    return {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": special,
        }
    }


SENTENCE, SPECIAL = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[X]", "type_id": 0}}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def rules(*texts: str) -> str:
    """As SentencePiece compiles them, with an empty trie."""
    return base64.b64encode(struct.pack("<I", 0) + "\0".join(texts).encode()).decode()


BOMBS: dict[str, dict[str, Any]] = {
    "a fixed length": padded(strategy={"Fixed": 10**9}),
    "a multiple": padded(pad_to_multiple_of=10**9),
    "pieces that overlap": {
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 7}
    },
    "letters that grow": replaced("a" * 10, "a" * 10, "a" * 10),
    "a page for a letter": replaced("page" * 100),
    "rules that grow": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": rules("x", "page" * 100)}},
    "a page before each": {"normalizer": {"type": "Prepend", "prepend": "page" * 100}},
    "bytes of bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 20}},
    "many special tokens": around([SENTENCE, *[SPECIAL] * 100]),
    "one of many tokens": around([SENTENCE, SPECIAL], ids=10_000),
    "the text again and again": around([SENTENCE] * 5),
    "processors of processors": {
        "post_processor": {
            "type": "Sequence",
            "processors": [{"type": "Sequence", "processors": [around([SENTENCE, SENTENCE])["post_processor"]]}],
        }
    },
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_tokenizer_that_makes_far_too_much_of_a_text_is_refused(bomb: str) -> None:
    content = with_changes(**BOMBS[bomb])
    Tokenizer.from_str(content.decode())  # it is one
    with pytest.raises(DataError, match=r"^here: .*such a tokenizer is not used$"):
        read_tokenizer(content, "here")


HARMLESS: dict[str, dict[str, Any]] = {
    "a usual length": padded(strategy={"Fixed": 512}),
    "quotes": replaced('"', "", "▁"),
    "special tokens": around([SPECIAL, SENTENCE, SPECIAL]),
    "bytes": {"pre_tokenizer": BYTE_LEVEL},
    "Unicode": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "StripAccents"}] * 3},
    },
    "nothing": {"normalizer": None, "pre_tokenizer": None, "post_processor": None},
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_usual_tokenizers_are_read(kind: str) -> None:
    read = read_tokenizer(with_changes(**HARMLESS[kind]), "here")
    assert token_ids(read, TEXTS, 16).shape == (2, 16)


def test_every_rule_for_a_text_that_the_library_has_is_judged() -> None:
    """A newer library may have others: say of each how much it may make of a character."""
    bases = {"Normalizer", "PostProcessor", "PreTokenizer", "Sequence", "NORMALIZERS"}
    judged = {"ByteLevel", "Prepend", "Replace", "Precompiled"} | sound_tokenizer._KEEP_LENGTH
    assert {name for name in dir(normalizers) if name[0].isupper()} - bases == judged
    known = {"TemplateProcessing"} | sound_tokenizer._PLAIN_PROCESSORS
    assert {name for name in dir(processors) if name[0].isupper()} - bases == known
    cuts = {"BertPreTokenizer", "CharDelimiterSplit", "Digits", "FixedLength", "Metaspace", "Punctuation", "Split"}
    cuts |= {"ByteLevel", "UnicodeScripts", "Whitespace", "WhitespaceSplit"}
    assert {name for name in dir(pre_tokenizers) if name[0].isupper()} - bases == cuts


def test_a_tokenizer_that_breaks_down_is_told_without_the_text() -> None:
    broken = {"type": "Precompiled", "precompiled_charsmap": rules("")}
    with pytest.raises(DataError, match="broke down") as caught:
        token_ids(read_tokenizer(with_changes(normalizer=broken), "here"), ["secret words"], 8)
    assert "secret" not in str(caught.value)
    with pytest.raises(DataError, match="^here: "):
        read_tokenizer(with_changes(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "here")


def test_ids_that_the_encoder_has_no_row_for_are_refused_before_they_reach_a_device() -> None:
    config = EncoderConfig.model_validate({"architecture": "bigru", "options": {"embedding_size": 8, "hidden_size": 8}})
    files = SampleEncoder(config, Modality.TEXT, dim=DIM, tokenizer=build_tokenizer(TEXTS)).to_files()
    values = json.loads(files["tokenizer.json"])
    values["model"]["vocab"]["dog"] = 4_000_000_000
    encoder = SampleEncoder.from_files(files | {"tokenizer.json": json.dumps(values).encode()})
    assert encoder.read(["two cats"]).shape == (1, 32)
    with pytest.raises(DataError, match="makes id 4000000000"):
        encoder.read(["a dog"])


def test_long_texts_are_read_some_at_a_time_with_the_same_ids() -> None:
    texts = [f"a dog {'runs ' * (number % 7)}" * 300 for number in range(40)]
    tokenizer = build_tokenizer(texts)
    one_by_one = torch.cat([token_ids(tokenizer, [text], 64) for text in texts])
    assert torch.equal(token_ids(tokenizer, texts, 64), one_by_one)
