"""Sites with hardly any samples, and batches of one: they train, or are refused in words."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.learning.tiny import IMAGE, tiny_federation, tiny_private, tiny_public
from torch import nn

from fedafd.datasets.samples import ClientData, PairSplit, TextSplit
from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.acceleration import accelerate, untouched_statistics
from fedafd.learning.baseline import train_alone
from fedafd.learning.batch_norm import accept_single_values
from fedafd.learning.client_round import ClientRound, train_client
from fedafd.learning.ensemble import aggregate, fold_state
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.server_round import distil, evaluate, initial_server_state, prepare

# Of 32 pixels a side one position is left: a batch of one has one value per channel.
DEEP = IMAGE | {"options": IMAGE["options"] | {"hidden_sizes": [8] * 5, "depths": [1] * 5}}  # type: ignore[operator]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@cache
def first(count: int) -> PairSplit:
    return tiny_public()["train"].take(range(count))


def few(kind: ClientKind, train: int, val: int = 16, test: int = 24) -> ClientData:
    data = tiny_private(kind)
    taken: dict[str, Any] = {"train": data.train.take(range(train)), "val": data.val.take(range(val))}
    return dataclasses.replace(data, **taken, test=data.test.take(range(test)))


def round_of(config: FederationConfig, data: ClientData, public: PairSplit) -> ClientRound:
    """A whole round with one client."""
    state = initial_server_state(config=config, captions=public.captions, seed=3)
    made = prepare(config=config, state=state, public=public, round_number=1, seed=4, device="cpu")
    client = train_client(
        config=config,
        kind=data.kind,
        image_encoder=None,
        text_encoder=None,
        data=data,
        public=public,
        global_representations=made.representations,
        bundles=made.bundles,
        state=None,
        round_number=1,
        seed=5,
        device="cpu",
    )
    aggregates = {
        m: aggregate(config, fold_state(config, m, rows, made.representations))
        for m, rows in client.representations.items()
    }
    after = distil(
        config=config,
        state=made.state,
        public=public,
        representations=made.representations,
        aggregates=aggregates,
        round_number=1,
        seed=6,
        device="cpu",
    )
    assert np.isfinite(list(evaluate(config=config, state=after, samples=public, device="cpu").metrics.values())).all()
    for rows in client.representations.values():
        assert np.isfinite(rows).all()
    assert np.isfinite(list(client.metrics.values())).all()
    return client


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fusion": {"inner_norm": True}},
        {"fusion": {"inner_norm": True, "mode": "tokens"}},
        {"strategy": "creamfl"},
        {"client": {"accumulate": 2, "public_samples_per_epoch": 1}},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ClientKind)
def test_one_private_sample_trains(kind: ClientKind, changes: dict[str, Any]) -> None:
    made = round_of(tiny_federation(image_encoder=DEEP, **changes), few(kind, 1), first(20))
    assert made.num_private_samples == 1
    assert made.metrics


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("kind", ClientKind)
def test_a_public_set_smaller_than_a_batch_trains(kind: ClientKind, count: int) -> None:
    round_of(tiny_federation(image_encoder=DEEP), few(kind, 8), first(count))


@pytest.mark.parametrize("per_epoch", [48, 49, 500, None])
def test_more_public_samples_per_epoch_than_there_are_means_all_of_them(per_epoch: int | None) -> None:
    config = tiny_federation(client={"public_samples_per_epoch": per_epoch}, alignment={"schedule": "separate"})
    wanted = tiny_federation(client={"public_samples_per_epoch": 48}, alignment={"schedule": "separate"})
    data = few(ClientKind.TEXT, 8)
    one, two = round_of(config, data, first(48)), round_of(wanted, data, first(48))
    assert one.state == two.state


@pytest.mark.parametrize("kind", ClientKind)
def test_an_empty_validation_split_leaves_the_gate_and_an_empty_test_split_has_no_metric(kind: ClientKind) -> None:
    made = round_of(tiny_federation(), few(kind, 8, val=0, test=0), first(20))
    assert {name.partition("/")[0] for name in made.metrics} == {"gate_offset"}
    assert all(value == 0.0 for value in made.metrics.values())
    assert len(made.scores) == 0


@pytest.mark.parametrize("kind", ClientKind)
def test_splits_of_one_sample_are_scored(kind: ClientKind) -> None:
    made = round_of(tiny_federation(), few(kind, 8, val=1, test=1), first(20))
    assert len(made.scores) == 1


def test_a_class_with_one_sample_trains() -> None:
    train = TextSplit(["a red circle", "a blue circle", "a square"], np.array([0, 0, 1]))
    data = ClientData(ClientKind.TEXT, train, train, train, ("circle", "square"))
    assert round_of(tiny_federation(), data, first(20)).metrics["federated/acc1"] >= 0


def test_alone_a_site_of_one_sample_trains_too() -> None:
    last = train_alone(
        config=tiny_federation(image_encoder=DEEP),
        kind=ClientKind.IMAGE,
        image_encoder=None,
        text_encoder=None,
        data=few(ClientKind.IMAGE, 1),
        rounds=2,
        client="site",
        device="cpu",
    )
    assert all(np.isfinite(list(each.metrics.values())).all() for each in last.evaluations.values())


def test_no_training_sample_a_single_class_and_two_of_one_name_are_refused_in_words() -> None:
    with pytest.raises(DataError, match="no training sample"):
        round_of(tiny_federation(), few(ClientKind.TEXT, 0), first(20))
    train = TextSplit(["a", "b"], np.array([0, 0]))
    with pytest.raises(DataError, match="one class"):
        round_of(tiny_federation(), ClientData(ClientKind.TEXT, train, train, train, ("a",)), first(20))
    with pytest.raises(DataError, match="more than one class called a"):
        round_of(tiny_federation(), ClientData(ClientKind.TEXT, train, train, train, ("a", "b", "a")), first(20))


class _Activated(nn.BatchNorm2d):
    """A layer of someone else's with something of its own behind the normalisation."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = super().forward(input).relu()
        return made


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, _Activated])
def test_a_single_value_is_normalised_by_running_statistics_and_leaves_them(kind: type[nn.BatchNorm2d]) -> None:
    torch.manual_seed(0)
    plain, patient = kind(3), nn.Sequential(kind(3))
    accept_single_values(patient)
    accept_single_values(patient)
    patient[0].load_state_dict(plain.state_dict())
    rows = torch.randn(5, 3, 2, 2)
    assert torch.equal(patient(rows), plain(rows))
    assert isinstance(patient[0], kind)
    held = {name: value.clone() for name, value in patient.state_dict().items()}
    single = torch.randn(1, 3, 1, 1, requires_grad=True)
    made = patient(single)
    assert torch.equal(made, plain.eval()(single))
    assert patient[0].training
    assert all(torch.equal(value, held[name]) for name, value in patient.state_dict().items())
    with untouched_statistics(patient):
        assert torch.equal(patient(single), made)
    made.sum().backward()
    with pytest.raises(ValueError, match="more than 1 value"):
        plain.train()(single)


def test_a_batch_in_parts_may_leave_a_part_of_one() -> None:
    torch.manual_seed(0)
    encoder = SampleEncoder(EncoderConfig.model_validate(DEEP), Modality.IMAGE, dim=8).train()
    accelerate([encoder], device=torch.device("cpu"), autocast="off", accumulate=2, compiled=False)
    batch = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    encoder(batch).vector_BD.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)
