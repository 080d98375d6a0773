"""What a saved state was made for against what it would be made for today: every case has its answer."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.domain.config import DataConfig, EncoderConfig, FusionConfig, PartitionConfig
from fedafd.domain.errors import ConfigurationError, StateUnusableError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.state_cases import CASES, Answer
from fedafd.domain.state_fingerprint import StateFingerprint, compare, refuse_mismatch, rows_by_name


def image(**changes: Any) -> dict[str, Any]:
    return {"image_encoder": EncoderConfig(**{"architecture": "resnet"} | changes)}


def text(**changes: Any) -> dict[str, Any]:
    return {"text_encoder": EncoderConfig(**{"architecture": "bigru"} | changes)}


def fusion(**changes: Any) -> dict[str, Any]:
    return {"fusion": FusionConfig(**changes)}


def data(**changes: Any) -> dict[str, Any]:
    return {"data": DataConfig(**{"adapter": "image-folder"} | changes)}


def task(name: str, **options: Any) -> dict[str, Any]:
    return {"kind": "text", "task": {"name": name, "options": options}}


TABLE: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({"kind": "image"}, {"kind": "text"}, ["kind"]),
    (task("multi-label"), task("multi-label"), []),
    (task("multi-label"), task("classification"), ["task"]),
    (task("focal", gamma=1), task("focal", gamma=2), ["task-options"]),
    ({"classes": ["a", "b"]}, {"classes": []}, ["kind"]),
    ({"classes": ["a", "b"]}, {"classes": ["a", "b"]}, []),
    ({"classes": ["a", "b"]}, {"classes": ["c", "d"]}, ["classes-all"]),
    ({"classes": ["a", "b"]}, {"classes": ["b", "c"]}, ["classes-added", "classes-removed"]),
    ({"classes": ["b", "g", "r"]}, {"classes": ["a", "b", "g", "r"]}, ["classes-added"]),
    ({"classes": ["b", "g", "r"]}, {"classes": ["b", "r"]}, ["classes-removed"]),
    ({"classes": ["b", "g", "r"]}, {"classes": ["r", "b", "g"]}, ["classes-moved"]),
    ({"classes": ["caf\u00e9", "b"]}, {"classes": ["cafe\u0301", "b"]}, []),
    ({"classes": ["caf\u00e9", "cafe\u0301"]}, {"classes": ["caf\u00e9", "b"]}, ["classes-added", "classes-removed"]),
    (image(), image(architecture="vit"), ["encoder-architecture"]),
    (image(), image(trainable="head"), ["encoder-trainable"]),
    (text(trainable="head"), text(), ["encoder-trainable"]),
    (text(), text(pooling="cls"), ["text-reading"]),
    (text(prefix="query: "), text(), ["text-reading"]),
    (image(options={"depths": [1]}), image(options={"depths": [2]}), ["encoder-options"]),
    (text(options={"hidden_size": 128}), text(options={}), ["encoder-options"]),
    (text(options={"dropout": 0.1}), text(options={"dropout": 0.2}), ["encoder-dropout"]),
    (image(pretrained="/old/resnet-18"), image(pretrained="/new/resnet-18"), ["encoder-moved"]),
    (image(pretrained="/old/resnet-18"), image(pretrained="/old/resnet-50"), ["encoder-pretrained"]),
    (image(), image(pretrained="/old/resnet-18"), ["encoder-pretrained"]),
    (image(pretrained="a/b"), image(pretrained="a/b@v1"), ["encoder-moved"]),
    (image(pretrained="a/b@v1"), image(pretrained="a/b"), ["encoder-moved"]),
    (image(pretrained="a/b@v1"), image(pretrained="/models/b"), ["encoder-moved"]),
    (image(pretrained="a/b@v1"), image(pretrained="a/b@v2"), ["encoder-pretrained"]),
    (image(pretrained="a/b@v1"), image(pretrained="a/c@v1"), ["encoder-pretrained"]),
    (image(pretrained="x", options={"a": 1}), image(pretrained="x", options={"a": 2}), []),
    (image(architecture="auto"), image(architecture="auto", projection="own"), ["encoder-projection"]),
    (image(), image(trainable="lora"), ["encoder-lora"]),
    (image(trainable="lora"), image(trainable="head"), ["encoder-lora"]),
    (image(trainable="lora"), image(trainable="lora", lora={"rank": 8}), []),
    (image(trainable="lora"), image(trainable="lora", lora={"rank": 4}), ["encoder-lora"]),
    (image(trainable="lora"), image(trainable="lora", lora={"dropout": 0.5}), ["encoder-dropout"]),
    (image(image_size=32), image(image_size=64), ["image-size"]),
    (image(architecture="vit", image_size=32), image(architecture="vit", image_size=64), ["image-size-fixed"]),
    (image(), image(image_mean=(0.1, 0.2, 0.3)), ["pixel-scale"]),
    (image(), image(image_crop=0.875), ["image-reading"]),
    (image(image_interpolation="bicubic"), image(), ["image-reading"]),
    (text(max_tokens=8), text(max_tokens=20), ["max-tokens"]),
    (
        text(architecture="bert", max_tokens=8, options={"max_position_embeddings": 16}),
        text(architecture="bert", max_tokens=20, options={"max_position_embeddings": 16}),
        ["max-tokens-fixed"],
    ),
    (image(max_tokens=8), image(max_tokens=20), []),
    (text(image_size=32), text(image_size=64), []),
    (
        text(max_tokens=8, options={"hidden_size": 128}),
        text(max_tokens=20, options={"hidden_size": 8}),
        ["encoder-options", "max-tokens"],
    ),
    ({"tokenizer": "one"}, {"tokenizer": "two"}, ["tokenizer"]),
    ({"unknown_words": 3}, {"unknown_words": 13}, ["words"]),
    ({"unknown_words": 3}, {"unknown_words": 12}, []),
    ({"unknown_words": 50}, {"unknown_words": 3}, []),
    ({"vocabulary": "public"}, {"vocabulary": "public+private"}, ["vocabulary"]),
    ({"embedding_dim": 256}, {"embedding_dim": 128}, ["embedding-dim"]),
    (fusion(mode="off"), fusion(mode="vector"), ["fusion-fresh"]),
    (fusion(mode="global"), fusion(mode="tokens"), ["fusion-fresh"]),
    (fusion(mode="tokens"), fusion(mode="global"), ["fusion-off"]),
    (fusion(mode="off"), fusion(mode="global"), []),
    (fusion(), fusion(inner_norm=True), ["fusion-fresh"]),
    (fusion(), fusion(reduction=8), ["fusion-fresh"]),
    (fusion(), fusion(mode="tokens"), ["fusion-mode"]),
    (fusion(), fusion(auxiliary_weight=0.1, warm_start_steps=9), []),
    ({"centre": True}, {"centre": False}, ["centring"]),
    ({"averaging": "off"}, {"averaging": "weights"}, ["averaging-on"]),
    ({"averaging": "weights"}, {"averaging": "off"}, ["averaging-off"]),
    ({"optimizer": "sgd"}, {"optimizer": "adamp"}, ["optimizer"]),
    ({"preset": "small"}, {"preset": "paper"}, ["preset"]),
    ({"strategy": "fedafd"}, {"strategy": "fedmd"}, ["strategy"]),
    (data(), data(adapter="parquet", options={"a": 1}), ["adapter"]),
    (data(), data(options={"a": 1}), ["data-options"]),
    (data(), data(partition=PartitionConfig(num_clients=2)), ["partition"]),
]


@pytest.mark.parametrize(("saved", "today", "cases"), TABLE, ids=str)
def test_each_difference_is_found_and_has_its_answer(
    saved: dict[str, Any], today: dict[str, Any], cases: list[str]
) -> None:
    found = compare(StateFingerprint(**saved), StateFingerprint(**today))
    assert [each.case for each in found] == cases
    assert [each.answer for each in found] == [CASES[case].answer for case in cases]
    if any(each.answer is Answer.REFUSE for each in found):
        with pytest.raises(StateUnusableError, match="fedafd agent reset"):
            refuse_mismatch(found)
    else:
        refuse_mismatch(found)


def test_the_table_above_knows_every_case() -> None:
    assert {case for _, _, cases in TABLE for case in cases} == set(CASES)


@pytest.mark.parametrize(("saved", "today", "cases"), TABLE, ids=str)
def test_what_is_not_known_is_not_compared(saved: dict[str, Any], today: dict[str, Any], cases: list[str]) -> None:
    assert compare(StateFingerprint(), StateFingerprint(**today)) == []
    assert compare(StateFingerprint(**saved), StateFingerprint()) == []


@pytest.mark.parametrize(("saved", "today", "cases"), TABLE, ids=str)
def test_a_fingerprint_survives_the_state(saved: dict[str, Any], today: dict[str, Any], cases: list[str]) -> None:
    for values in (saved, today):
        made = StateFingerprint(**values)
        assert StateFingerprint.of_state({"fingerprint": made.as_json()}) == made


def test_a_field_of_another_version_counts_as_not_known() -> None:
    given = {"kind": "image", "fusion": {"mode": "of-tomorrow"}, "image_encoder": {"no": 1}, "unheard": 5}
    assert StateFingerprint.of_state({"fingerprint": given}) == StateFingerprint(kind=ClientKind.IMAGE)


def test_a_refusal_names_what_came_and_what_went_and_tells_codes_apart() -> None:
    saved, today = (StateFingerprint(classes=tuple(names)) for names in (["blue", "red"], ["azure", "pink"]))
    with pytest.raises(StateUnusableError, match=r"added azure, pink; removed blue, red") as raised:
        refuse_mismatch(compare(saved, today))
    assert raised.value.data["cases"] == ["classes-all"]
    assert isinstance(raised.value, ConfigurationError)
    assert raised.value.code == "state-unusable"


def test_a_state_of_before_is_compared_by_what_it_says_of_its_encoders() -> None:
    built = {"architecture": "bigru", "max_tokens": 8, "options": {"hidden_size": 128, "dropout": 0.1}}
    meta = {"encoders": {"text": built}, "labels": ["a", "b"], "tokenizer": None}
    saved = StateFingerprint.of_state(meta)
    assert [each.case for each in compare(saved, StateFingerprint(**text(max_tokens=8)))] == []
    today = StateFingerprint(**text(max_tokens=20, options={"hidden_size": 8}), classes=("b", "a"))
    assert [each.case for each in compare(saved, today)] == ["classes-moved", "encoder-options", "max-tokens"]


names = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=8, unique=True)


@settings(max_examples=60, deadline=None)
@given(names, names)
def test_rows_by_name_finds_each_class_once_and_the_same_name_in_both(one: list[str], two: list[str]) -> None:
    first, second = rows_by_name(one, two)
    assert sorted(first.values()) == list(range(len(one)))
    assert sorted(second.values()) == list(range(len(two)))
    for name in first.keys() & second.keys():
        normal = [unicodedata.normalize("NFC", each) for each in (one[first[name]], two[second[name]])]
        assert normal[0] == normal[1]
