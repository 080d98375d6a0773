"""Training by DP-SGD: gradients by sample, noise on all of them, steps that do not depend on the samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.learning.labelled import several_labels
from tests.learning.tiny import NORMLESS_IMAGE, tiny_client, tiny_federation, tiny_private, tiny_server

from fedafd.datasets.samples import ClientData
from fedafd.domain.config import DpConfig, FederationConfig, TaskConfig
from fedafd.domain.errors import ConfigurationError, StateUnusableError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.learning.client_round import ClientRound
from fedafd.learning.local_site import LocalSite, Sent
from fedafd.learning.private_steps import PrivateGradient, PrivateTraining, _SampleLoss, gaussian_like
from fedafd.learning.server_round import Prepared
from fedafd.learning.step_batches import PrivateBatch, private_batch

SAMPLES = 40
MULTI_LABEL = StateFingerprint(task=TaskConfig(name="multi-label"))
Spend = Callable[[], None]


def private(spend: Spend = lambda: None, secret: int = 7, **changes: Any) -> PrivateTraining:
    values = {"epsilon": 8.0, "delta": 1e-3, "samples": SAMPLES} | changes
    return PrivateTraining(config=DpConfig(**values), spend=spend, secret=secret)


def federation(**changes: Any) -> FederationConfig:
    client = {"vocabulary": "public"} | changes.pop("client", {})
    return tiny_federation(**({"image_encoder": NORMLESS_IMAGE, "client": client} | changes))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return tiny_server(federation())[1]


def site(made: Prepared, kind: ClientKind, how: PrivateTraining, data: ClientData | None = None) -> LocalSite:
    sent = Sent(
        representations=made.representations, bundles={m: made.bundles[m] for m in kind.modalities}, public=None
    )
    labels = None if data is None else MULTI_LABEL
    data = tiny_private(kind) if data is None else data
    return LocalSite(federation(), kind, {}, data, None, 5, "cpu", sent=sent, fingerprint=labels, private=how)


def slow_gradient(here: LocalSite, batch: PrivateBatch, clip: float) -> dict[str, torch.Tensor]:
    """Sum of the clipped gradients, by plain autograd, one sample after the other; added in double precision."""
    model = here.model.train()
    by_itself = _SampleLoss(model, here.config)
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad and not n.startswith("alignment.")}
    total = {name: torch.zeros_like(each, dtype=torch.float64) for name, each in learned.items()}
    (rows,), (frozen,) = batch.rows.values(), batch.frozen.values()
    assert batch.labels is not None
    for row, one, label in zip(rows, frozen, batch.labels, strict=True):
        found = torch.autograd.grad(by_itself(row, one, label), list(learned.values()), materialize_grads=True)
        length = float(torch.cat([part.double().flatten() for part in found]).norm())
        for name, part in zip(learned, found, strict=True):
            total[name] += part.double() * min(1.0, clip / length)
    return total


@pytest.mark.parametrize(
    ("kind", "labelled"), [(ClientKind.IMAGE, False), (ClientKind.TEXT, False), (ClientKind.IMAGE, True)]
)
def test_a_step_has_the_clipped_gradients_of_a_slow_loop(prepared: Prepared, kind: ClientKind, labelled: bool) -> None:
    how = private(noise_multiplier=1e-12, clip=0.3)
    here = site(prepared, kind, how, several_labels(kind) if labelled else None)
    batch = private_batch(here, torch.arange(5))
    here.model.train()
    PrivateGradient(how, here).set_gradients(batch, (1, 0))
    found = {n: p.grad.clone() for n, p in here.model.named_parameters() if p.grad is not None}
    expected = slow_gradient(here, batch, 0.3)
    assert found.keys() == expected.keys()
    size = here.training.batch_size if here.training.batch_size < SAMPLES else SAMPLES
    for name, each in expected.items():
        assert torch.allclose(found[name].double() * size, each, rtol=1e-3, atol=1e-5), name


def test_a_step_without_samples_is_noise_of_the_accounted_scale(prepared: Prepared) -> None:
    how = private(noise_multiplier=2.0, clip=0.5)
    here = site(prepared, ClientKind.IMAGE, how)
    gradient = PrivateGradient(how, here)
    gradient.set_gradients(private_batch(here, torch.arange(0)), (1, 0))
    first = torch.cat([p.grad.flatten() for p in here.model.parameters() if p.grad is not None])
    size = min(here.training.batch_size, SAMPLES)
    assert float(first.std()) == pytest.approx(2.0 * 0.5 / size, rel=0.05)
    gradient.set_gradients(private_batch(here, torch.arange(0)), (1, 1))
    second = torch.cat([p.grad.flatten() for p in here.model.parameters() if p.grad is not None])
    assert abs(float((first * second).mean())) < 0.05 * float(first.var())


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    set_gradients = PrivateGradient.set_gradients

    def watched(self: PrivateGradient, batch: PrivateBatch, where: tuple[int, int]) -> torch.Tensor:
        assert batch.labels is not None
        sizes.append(len(batch.labels))
        return set_gradients(self, batch, where)

    monkeypatch.setattr(PrivateGradient, "set_gradients", watched)
    return sizes


def test_steps_are_as_many_as_are_paid_for_and_their_sizes_are_drawn(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, paid = counted(monkeypatch), []
    config = federation(client={"local_epochs": 2, "text": {"batch_size": 5}}, fusion={"warm_start_steps": 3})
    # Half as many are stated as there are: nothing but the sizes of batches follows from the true number.
    how = private(lambda: paid.append(len(sizes)), samples=20)
    made = tiny_client(ClientKind.TEXT, config, prepared, private=how)
    assert paid == [0]
    assert len(sizes) == how.config.steps_of_round(config, ClientKind.TEXT, is_new=True) == 2 * 4 + 3
    assert len(set(sizes)) > 1 and 4 < sum(sizes) / len(sizes) < 16
    again = tiny_client(ClientKind.TEXT, config, prepared, made.state, private=how)
    assert len(sizes) == 11 + 8 and paid == [0, 11]
    assert again.representations.keys() == made.representations.keys()


def test_who_refuses_to_pay_trains_no_step(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = counted(monkeypatch)

    def refuse() -> None:
        raise StateUnusableError("no budget")

    with pytest.raises(StateUnusableError, match="no budget"):
        tiny_client(ClientKind.TEXT, federation(), prepared, private=private(refuse))
    assert not sizes


def test_a_secret_gives_the_same_again_and_another_one_does_not(prepared: Prepared) -> None:
    def made(how: PrivateTraining) -> ClientRound:
        return tiny_client(ClientKind.TEXT, federation(), prepared, private=how)

    one, same, other = made(private()), made(private()), made(private(secret=8))
    assert one.state == same.state and one.state != other.state
    assert PrivateTraining(config=private().config, spend=lambda: None).secret.bit_length() > 128


@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        (ClientKind.PAIR, {}, "pair"),
        (ClientKind.IMAGE, {"image_encoder": tiny_federation().image_encoder.model_dump(mode="json")}, "BatchNorm"),
        (ClientKind.IMAGE, {"fusion": {"inner_norm": True}}, "BatchNorm"),
        (ClientKind.TEXT, {"client": {"vocabulary": "public+private"}}, "vocabulary"),
        (ClientKind.TEXT, {"strategy": "fedavg"}, "averages weights"),
    ],
)
def test_what_cannot_be_private_is_refused_before_it_is_paid_for(
    prepared: Prepared, kind: ClientKind, changes: dict[str, Any], word: str
) -> None:
    paid: list[int] = []
    with pytest.raises(ConfigurationError, match=f"privacy.dp.*{word}"):
        tiny_client(kind, federation(**changes), prepared, private=private(lambda: paid.append(1)))
    assert not paid


def test_a_state_that_was_trained_without_it_once_is_refused(prepared: Prepared) -> None:
    config = federation()
    plain = tiny_client(ClientKind.TEXT, config, prepared)
    with pytest.raises(StateUnusableError, match="without differential privacy"):
        tiny_client(ClientKind.TEXT, config, prepared, plain.state, private=private())
    begun = tiny_client(ClientKind.TEXT, config, prepared, private=private())
    went_on = tiny_client(ClientKind.TEXT, config, prepared, begun.state)
    with pytest.raises(StateUnusableError, match="without differential privacy"):
        tiny_client(ClientKind.TEXT, config, prepared, went_on.state, private=private())


@pytest.mark.parametrize("deviation", [0.01, 2.5])
def test_noise_has_the_asked_deviation_and_no_mean(deviation: float) -> None:
    (noise,) = gaussian_like([torch.zeros(400, 500)], deviation, np.random.default_rng(3))
    assert float(noise.std()) == pytest.approx(deviation, rel=0.01)
    assert abs(float(noise.mean())) < 4 * deviation / (400 * 500) ** 0.5
    # A normal one: 4.55 % lie beyond two deviations.
    assert float((noise.abs() > 2 * deviation).double().mean()) == pytest.approx(0.0455, abs=0.002)
