"""A state from before a change: labels bind to names, what fits goes on, what cannot is refused."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.learning.tiny import TEXT, tiny_federation, tiny_private, tiny_public

from fedafd.algorithm.heads import ClassificationHead
from fedafd.datasets.samples import ClientData, ImageSplit, Split, TextSplit
from fedafd.domain.config import DataConfig, EncoderConfig, FederationConfig
from fedafd.domain.errors import DataError, StateUnusableError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.learning.adaptation import adapt, bound_by_name, fingerprint_of_round
from fedafd.learning.branches import pool_branches
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.client_round import ClientRound, evaluate_client, train_client
from fedafd.learning.fedavg import average_updates, group_of, load_average, weight_update
from fedafd.learning.local_site import LocalSite, Sent
from fedafd.learning.server_round import Prepared, initial_server_state, prepare
from fedafd.learning.site_evaluation import SiteEvaluator

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=6, unique=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@cache
def prepared() -> Prepared:
    torch.set_num_threads(1)
    config, public = tiny_federation(), tiny_public()
    state = initial_server_state(config=config, captions=public["train"].captions, seed=3)
    return prepare(config=config, state=state, public=public["train"], round_number=1, seed=4, device="cpu")


def trained(data: ClientData, state: bytes | None = None, **changes: Any) -> ClientRound:
    own = changes.pop("encoders", {})
    fingerprint = changes.pop("fingerprint", None)
    config: FederationConfig = changes.pop("config", None) or tiny_federation(**changes)
    return train_client(
        config=config,
        kind=data.kind,
        image_encoder=own.get("image"),
        text_encoder=own.get("text"),
        data=data,
        public=tiny_public()["train"],
        global_representations=prepared().representations,
        bundles=prepared().bundles,
        state=state,
        round_number=1,
        seed=5,
        device="cpu",
        fingerprint=fingerprint,
    )


def cases(made: ClientRound) -> list[str]:
    return [each.case for each in made.differences]


def classes(data: ClientData, names: list[str]) -> ClientData:
    """The samples of some classes only, under an order of names of our choice."""
    rows = {data.labels.index(name): row for row, name in enumerate(names)}

    def kept(split: Split) -> Split:
        assert isinstance(split, ImageSplit | TextSplit)
        taken = split.take([i for i, label in enumerate(split.labels) if int(label) in rows])
        return dataclasses.replace(taken, labels=np.array([rows[int(label)] for label in taken.labels], np.int64))

    return dataclasses.replace(
        data, train=kept(data.train), val=kept(data.val), test=kept(data.test), labels=tuple(names)
    )


@cache
def images() -> ClientData:
    return tiny_private(ClientKind.IMAGE)


@cache
def state_of(names: tuple[str, ...]) -> bytes:
    return trained(classes(images(), list(names))).state


def named(state: bytes, data: ClientData) -> list[str]:
    """Names that a state predicts for the test split, with no training between."""
    sent = Sent(representations=prepared().representations, bundles=prepared().bundles, public=tiny_public()["train"])
    site = LocalSite(tiny_federation(), data.kind, {}, data, state, 9, "cpu", sent=sent)
    predicted = pool_branches(site.task, SiteEvaluator(site).logits("test"), site.weights).argmax(-1)
    return [site.data.labels[int(row)] for row in predicted]


def test_the_same_classes_in_another_order_train_and_score_as_before() -> None:
    names = list(images().labels[:3])
    first = state_of(tuple(names))
    turned = classes(images(), names[::-1])
    kept = classes(images(), names)
    assert named(first, turned) == named(first, kept)
    made, plain = trained(turned, first), trained(kept, first)
    assert cases(made) == ["classes-moved"]
    assert Checkpoint.from_bytes(made.state).meta["labels"] == names
    # The same samples with the same rows: nothing of the training differs.
    assert made.metrics == plain.metrics
    assert all(map(torch.equal, _tensors(made.state), _tensors(plain.state)))


def _tensors(state: bytes) -> list[torch.Tensor]:
    tensors = Checkpoint.from_bytes(state).tensors
    return [tensors[key] for key in sorted(tensors)]


def test_a_class_that_came_and_one_that_went() -> None:
    """blue, green, red -> green, red, yellow: every prediction was a wrong name, and the accuracy 100."""
    before, now = list(images().labels[:3]), list(images().labels[1:4])
    first = state_of(tuple(before))
    today = classes(images(), now)
    made = trained(today, first)
    assert cases(made) == ["classes-added", "classes-removed"]
    assert now[2] in made.differences[0].message
    assert before[0] in made.differences[1].message
    assert Checkpoint.from_bytes(made.state).meta["labels"] == [*before, now[2]]
    predicted = named(made.state, today)
    right = [name == now[int(label)] for name, label in zip(predicted, today.test.labels, strict=True)]  # type: ignore[union-attr]
    assert 100 * sum(right) / len(right) == pytest.approx(made.metrics["federated/acc1"])
    again = trained(today, made.state)
    assert cases(again) == ["classes-removed"]


def test_moments_of_the_head_grow_with_zeros_and_stay_with_their_classes() -> None:
    names = list(images().labels[:3])
    config: dict[str, Any] = {"client": {"image": {"optimizer": "adamp"}}}
    first = trained(classes(images(), names), **config)
    grown = [images().labels[5], *names]
    data = classes(images(), grown)
    site = LocalSite(tiny_federation(**config), ClientKind.IMAGE, {}, data, first.state, 9, "cpu", sent=None)
    head = next(p for n, p in site.model.named_parameters() if n == "head.free_weight")
    before = Checkpoint.from_bytes(first.state).tensors
    held = site.optimizers["main"].state[head]
    (path,) = [key for key in before if re.fullmatch(r"main/\d+/exp_avg", key) and before[key].shape == (3, 16)]
    assert torch.equal(held["exp_avg"][:3], before[path])
    assert held["exp_avg"][:3].any()
    assert not held["exp_avg"][3:].any()
    assert held["exp_avg"].shape == (4, 16)
    assert torch.equal(head[:3].detach(), before["model/head.free_weight"])
    assert trained(classes(images(), grown), first.state, **config).metrics


def test_nothing_left_of_the_classes_is_refused_with_the_command() -> None:
    first = state_of(tuple(images().labels[:2]))
    with pytest.raises(StateUnusableError, match=r"added .*; removed .*fedafd agent reset"):
        trained(classes(images(), list(images().labels[3:5])), first)


@settings(max_examples=25, deadline=None)
@given(NAMES, NAMES, st.integers(0, 2**31))
def test_a_head_that_grew_predicts_kept_classes_as_before(old: list[str], new: list[str], seed: int) -> None:
    """Name by name, for any lists of classes in any order."""
    if not set(old) & set(new):
        new = [*new, old[0]]
    torch.manual_seed(seed)
    head = ClassificationHead(8, len(old))
    checkpoint = Checkpoint(
        tensors={"model/head.free_weight": head.free_weight.detach()}, meta={"labels": list(old), "encoders": {}}
    )
    found = adapt(checkpoint, StateFingerprint(classes=tuple(new)), seed)
    held = checkpoint.meta["labels"]
    assert held[: len(old)] == old
    assert set(held) == {*old, *new}
    weight_CD = checkpoint.tensors["model/head.free_weight"]
    assert torch.isfinite(weight_CD).all()
    assert (weight_CD.abs().sum(1) > 0).all()
    rows_BD = torch.rand(16, 8)
    before, after = head(rows_BD), torch.nn.functional.linear(rows_BD, weight_CD.abs())
    assert {n: after[:, held.index(n)].tolist() for n in old} == {n: before[:, old.index(n)].tolist() for n in old}
    labels = np.arange(len(new)).repeat(2)
    split = TextSplit(["x"] * len(labels), labels)
    bound = bound_by_name(ClientData(ClientKind.TEXT, split, split, split, tuple(new)), held)
    assert [bound.labels[row] for row in bound.train.labels] == [new[label] for label in labels]  # type: ignore[union-attr]
    assert bool(set(new) - set(old)) == ("classes-added" in {each.case for each in found})


def test_names_in_another_normal_form_are_the_same_classes() -> None:
    split = TextSplit(["x", "y"], np.array([0, 1]))
    data = ClientData(ClientKind.TEXT, split, split, split, ("cafe\u0301", "b"))
    assert bound_by_name(data, ("b", "caf\u00e9")).train.labels.tolist() == [1, 0]  # type: ignore[union-attr]


def test_what_the_fingerprint_says_of_the_site_is_kept_and_told_once() -> None:
    sites = [StateFingerprint(data=DataConfig(adapter=name)) for name in ("image-folder", "parquet")]
    data = classes(images(), list(images().labels[:3]))
    first = trained(data, fingerprint=sites[0])
    second = trained(data, first.state, fingerprint=sites[1])
    assert cases(second) == ["adapter"]
    assert cases(trained(data, second.state, fingerprint=sites[1])) == []


@pytest.mark.parametrize("kind", ClientKind)
def test_a_state_of_before_is_taken_and_gets_its_fingerprint(kind: ClientKind) -> None:
    data = tiny_private(kind)
    first = trained(data)
    old = Checkpoint.from_bytes(first.state)
    del old.meta["fingerprint"]
    made, plain = trained(data, old.to_bytes()), trained(data, first.state)
    assert cases(made) == []
    assert made.state == plain.state


@pytest.mark.parametrize(
    ("kind", "first", "second", "case"),
    [
        (ClientKind.IMAGE, {"fusion": {"mode": "off"}}, {"fusion": {"mode": "vector"}}, "fusion-fresh"),
        (ClientKind.PAIR, {"fusion": {"mode": "tokens"}}, {"fusion": {"mode": "off"}}, "fusion-off"),
        (ClientKind.TEXT, {"fusion": {"mode": "vector"}}, {"fusion": {"mode": "global"}}, "fusion-off"),
        (ClientKind.TEXT, {"fusion": {"mode": "vector"}}, {"fusion": {"mode": "tokens"}}, "fusion-mode"),
        (ClientKind.IMAGE, {}, {"fusion": {"inner_norm": True}}, "fusion-fresh"),
        (ClientKind.PAIR, {"alignment": {"centre": True}}, {"alignment": {"centre": False}}, "centring"),
        (
            ClientKind.IMAGE,
            {"client": {"image": {"optimizer": "sgd"}}},
            {"client": {"image": {"optimizer": "adamp"}}},
            "optimizer",
        ),
        (
            ClientKind.TEXT,
            {"client": {"text": {"optimizer": "adam"}}},
            {"client": {"text": {"optimizer": "sgd"}}},
            "optimizer",
        ),
        (ClientKind.TEXT, {"strategy": "fedafd"}, {"strategy": "fedmd"}, "strategy"),
        (ClientKind.PAIR, {"strategy": "fedmd"}, {"strategy": "creamfl"}, "strategy"),
    ],
    ids=str,
)
def test_a_federation_that_changed_between_rounds_trains_on(
    kind: ClientKind, first: dict[str, Any], second: dict[str, Any], case: str
) -> None:
    data = tiny_private(kind)
    state = trained(data, **first).state
    made = trained(data, state, **second)
    assert case in cases(made)
    again = trained(data, made.state, **second)
    assert cases(again) == []
    back = trained(data, made.state, **first)
    assert all(np.isfinite(list(back.metrics.values())))


def test_centring_that_was_switched_off_leaves_no_mean_behind() -> None:
    data = tiny_private(ClientKind.TEXT)
    centred = trained(data)
    assert Checkpoint.from_bytes(centred.state).tensors["model/mean_text"].any()
    plain = trained(data, centred.state, alignment={"centre": False})
    assert not Checkpoint.from_bytes(plain.state).tensors["model/mean_text"].any()


def test_encoders_that_changed_follow_or_are_refused_never_ignored() -> None:
    data = tiny_private(ClientKind.TEXT)
    first = trained(data)
    longer = EncoderConfig(**TEXT | {"max_tokens": 24})
    made = trained(data, first.state, encoders={"text": longer})
    assert cases(made) == ["max-tokens"]
    held = Checkpoint.from_bytes(made.state).meta
    assert held["encoders"]["text"]["max_tokens"] == 24
    dropping = EncoderConfig(**TEXT | {"options": TEXT["options"] | {"dropout": 0.5}})  # type: ignore[operator]
    made = trained(data, first.state, encoders={"text": dropping})
    assert cases(made) == ["encoder-dropout"]
    assert Checkpoint.from_bytes(made.state).meta["encoders"]["text"]["options"]["dropout"] == 0.5
    narrow = EncoderConfig(**TEXT | {"options": TEXT["options"] | {"hidden_size": 8}})  # type: ignore[operator]
    with pytest.raises(StateUnusableError, match=r"was hidden_size 16, is hidden_size 8"):
        trained(data, first.state, encoders={"text": narrow})
    with pytest.raises(StateUnusableError, match=r"another encoder"):
        trained(data, first.state, encoders={"text": EncoderConfig(architecture="bert", max_tokens=16)})


def test_texts_in_words_that_the_vocabulary_lacks_are_told_once() -> None:
    data = tiny_private(ClientKind.TEXT)
    first = trained(data)
    assert isinstance(data.train, TextSplit)
    foreign = dataclasses.replace(data.train, texts=[f"ein rotes {text[::-1]}" for text in data.train.texts])
    changed = dataclasses.replace(data, train=foreign)
    made = trained(changed, first.state)
    assert cases(made) == ["words"]
    assert made.differences[0].saved == "0 %"
    assert cases(trained(changed, made.state)) == []


def test_images_are_read_at_the_new_size_and_scale() -> None:
    data = tiny_private(ClientKind.IMAGE)
    config = tiny_federation()
    first = trained(data)
    larger = config.image_encoder.model_copy(update={"image_size": 48, "image_mean": (0.4, 0.4, 0.4)})
    made = trained(data, first.state, encoders={"image": larger})
    assert cases(made) == ["image-size", "pixel-scale"]
    held = Checkpoint.from_bytes(made.state).meta["encoders"]["image"]
    assert (held["image_size"], held["image_mean"]) == (48, [0.4, 0.4, 0.4])


def test_another_embedding_dimension_is_refused() -> None:
    data = tiny_private(ClientKind.TEXT)
    state = trained(data).state
    with pytest.raises(StateUnusableError, match=r"embedding_dim: was 16, is 8"):
        LocalSite(tiny_federation(embedding_dim=8), data.kind, {}, data, state, 5, "cpu", sent=None)


def test_weights_that_started_apart_are_not_averaged() -> None:
    data = tiny_private(ClientKind.TEXT)
    state = trained(data).state
    with pytest.raises(StateUnusableError, match="averaged"):
        trained(data, state, strategy="fedavg")


def test_a_state_is_evaluated_with_the_encoders_that_it_has() -> None:
    data = tiny_private(ClientKind.TEXT)
    narrow = EncoderConfig(**TEXT | {"options": TEXT["options"] | {"hidden_size": 8}})  # type: ignore[operator]
    made = trained(data, encoders={"text": narrow})
    told = evaluate_client(
        config=tiny_federation(),
        kind=data.kind,
        data=data,
        global_representations=prepared().representations,
        bundles=prepared().bundles,
        state=made.state,
        device="cpu",
    )
    assert told.metrics == made.metrics


def test_clients_of_the_same_classes_average_by_name_whatever_their_order() -> None:
    torch.manual_seed(0)
    names = ["World", "Sports", "Business"]
    states = []
    for order in (names, names[::-1], sorted(names)):
        head = torch.stack([torch.full((4,), float(names.index(name))) for name in order])
        meta: dict[str, Any] = {"labels": order, "encoders": {"text": {}}, "tokenizer": None}
        states.append(Checkpoint({"model/head.free_weight": head}, meta).to_bytes())
    assert len({group_of(state) for state in states}) == 1
    (average,) = average_updates([weight_update(state, 3) for state in states]).values()
    for order in (names, names[::-1]):
        module = torch.nn.Module()
        module.head = ClassificationHead(4, 3)
        load_average(module, average, order)
        assert module.head.free_weight[:, 0].tolist() == pytest.approx([float(names.index(name)) for name in order])


def test_sites_that_got_the_same_new_class_stay_in_one_group() -> None:
    config = tiny_federation(strategy="fedavg")
    data = tiny_private(ClientKind.TEXT)
    names = list(data.labels[:3])
    first = trained(classes(data, names), config=config)
    groups, rows = set(), set()
    for seed, grown in enumerate(([data.labels[4], *names], [*names, data.labels[4]])):
        checkpoint = Checkpoint.from_bytes(first.state)
        site = LocalSite(config, data.kind, {}, classes(data, list(grown)), first.state, seed, "cpu", sent=None)
        adapt(checkpoint, fingerprint_of_round(config, data.kind, {}, grown), site._first_seed())
        groups.add(group_of(checkpoint))
        rows.add(tuple(checkpoint.tensors["model/head.free_weight"][3].tolist()))
    assert len(groups) == 1
    assert len(rows) == 1
    assert groups != {group_of(first.state)}


def test_a_state_of_another_module_is_refused_in_words() -> None:
    module = torch.nn.Linear(2, 2)
    checkpoint = Checkpoint()
    checkpoint.add_module("model", module)
    checkpoint.tensors["model/more"] = torch.zeros(1)
    with pytest.raises(DataError, match="does not fit"):
        checkpoint.load_module("model", module)
    checkpoint.drop("model", "more")
    checkpoint.drop("model", "bias")
    checkpoint.load_module("model", module, fresh="bias")
    with pytest.raises(DataError, match=r"lacks \['bias'\]"):
        checkpoint.load_module("model", module)
