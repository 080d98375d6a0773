"""Local training: what a warm start moves and leaves, and what becomes of the gate's offset."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tests.learning.test_round import TINY_IMAGE, TINY_TEXT

from fedafd.algorithm.choices import as_good
from fedafd.algorithm.fusion import GATE_OFFSETS, calibrate_gate
from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import parse_federation_config
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning import site_evaluation
from fedafd.learning.client_model import Gates
from fedafd.learning.encoders import Features
from fedafd.learning.local_site import LocalSite, Sent
from fedafd.learning.local_training import _Steps, train_locally
from fedafd.learning.server_round import initial_server_state, prepare
from fedafd.learning.site_evaluation import SiteEvaluator


def site(kind: ClientKind, **fusion: object) -> LocalSite:
    torch.set_num_threads(1)
    config = parse_federation_config(
        {
            "name": "tiny",
            "preset": "small",
            "embedding_dim": 16,
            "image_encoder": TINY_IMAGE,
            "text_encoder": TINY_TEXT,
            "server": {"passes": 1, "batch_size": 16},
            "client": {"local_epochs": 1},
            "fusion": fusion,
        }
    )
    public = public_data(ShapesOptions(num_train=32, num_val=8, num_test=8, seed=1))["train"]
    state = initial_server_state(config=config, captions=public.captions, seed=3)
    made = prepare(config=config, state=state, public=public, round_number=1, seed=4, device="cpu")
    data = client_data(kind, ShapesOptions(num_train=40, num_val=8, num_test=8, seed=2))
    bundles = {m: made.bundles[m] for m in kind.modalities}
    sent = Sent(representations=made.representations, bundles=bundles, public=public)
    return LocalSite(config, kind, {}, data, None, 5, "cpu", sent=sent)


def weights(local: LocalSite, part: str) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in local.model.named_parameters() if name.startswith(part)}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ClientKind)
def test_a_warm_start_moves_the_fusion_and_holds_the_encoders(kind: ClientKind) -> None:
    local = site(kind)
    parts = ["towers.", "fusions.", "head." if kind is not ClientKind.PAIR else "contrast."]
    before = {part: weights(local, part) for part in parts}
    local.model.train()
    _Steps(local, None).warm_start(4)
    assert [changed(before[part], weights(local, part)) for part in parts] == [False, True, True]


def test_a_warm_start_happens_in_the_first_round_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(_Steps, "warm_start", lambda self, count: asked.append(count))
    local = site(ClientKind.IMAGE, warm_start_steps=7)
    train_locally(local, 1)
    again = LocalSite(local.config, local.kind, {}, local.data, local.state(), 6, "cpu", sent=None)
    assert not again.is_new
    train_locally(again, 2)
    assert asked == [7]


def test_without_fusion_there_is_nothing_to_warm() -> None:
    local = site(ClientKind.TEXT, mode="off")
    before = weights(local, "")
    _Steps(local, None).warm_start(3)
    assert not changed(before, weights(local, ""))
    assert set(local.encoders) == {Modality.TEXT}


def test_training_sees_the_gate_as_trained_whatever_was_chosen_for_use() -> None:
    ways = []
    for offset in (0.0, math.inf):
        local = site(ClientKind.IMAGE)
        local.gates.set_gate_offset(offset)
        train_locally(local, 1)
        ways.append(weights(local, ""))
    assert not changed(*ways)


@pytest.mark.parametrize("kind", ClientKind)
def test_calibration_scores_each_offset_on_the_validation_split(
    kind: ClientKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = site(kind)
    train_locally(local, 1)
    metric = "rsum" if kind is ClientKind.PAIR else "acc1"
    scores: dict[float, torch.Tensor] = {}

    def watched(gates: Gates, score: Callable[[], torch.Tensor]) -> float:
        for offset in GATE_OFFSETS:
            gates.set_gate_offset(offset)
            scores[offset] = score()
        return calibrate_gate(gates, score)  # type: ignore[arg-type]

    monkeypatch.setattr(site_evaluation, "calibrate_gate", watched)
    SiteEvaluator(local).calibrate()
    evaluated = SiteEvaluator(local).assess("val")
    (offset, *_) = [value for name, value in evaluated.metrics.items() if name.startswith("gate_offset/")]
    chosen = next(each for each in GATE_OFFSETS if max(min(each, 1e6), -1e6) == offset)
    view = "federated" if local.beside is None else "fused"
    assert evaluated.metrics[f"{view}/{metric}"] == pytest.approx(float(scores[chosen].mean()))
    assert evaluated.metrics[f"global/{metric}"] == pytest.approx(float(scores[-math.inf].mean()))
    assert evaluated.scores.mean() == pytest.approx(evaluated.metrics[f"federated/{metric}"])
    assert len(evaluated.scores) == len(local.data.val)
    assert all(as_good(scores[chosen], other, errors=2.0) for other in scores.values())


def test_a_site_is_ready_for_training_and_evaluation_when_it_is_made() -> None:
    local = site(ClientKind.PAIR)
    alone = LocalSite(local.config, local.kind, {}, local.data, None, 5, "cpu", sent=None)
    assert not {name for name in dir(LocalSite) if name.startswith("meet")}
    assert set(vars(alone)) == set(vars(local))
    assert set(SiteEvaluator(local).features("val")) == {"federated", "local", "global"}
    assert set(SiteEvaluator(alone).features("val")) == {"federated", "local"}


def test_features_without_tokens_keep_their_vectors_alone() -> None:
    vectors = torch.ones(3, 4)
    bare = Features(vectors, torch.ones(3, 5, 4), torch.ones(3, 5)).without_tokens()
    assert bare.vector_BD is vectors
    assert (bare.tokens_BPD.shape, bare.weights_BP.shape) == ((3, 0, 4), (3, 0))
