"""Tasks behind one seam: several labels a sample in rounds, in models and in states, and tasks that do not fit."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.learning.labelled import LABELS, several_labels
from tests.learning.tiny import shared_files, tiny_federation, tiny_private, tiny_public, tiny_recipe, write_files
from torch import nn
from torch.nn import functional as F

from fedafd.algorithm.label_metrics import label_ranking_scores
from fedafd.domain.config import TaskConfig, usual_task
from fedafd.domain.errors import ConfigurationError, DataError, StateUnusableError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.leaving import CLIENT_METRICS
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.client_round import ClientRound, evaluate_client, train_client
from fedafd.learning.local_site import LocalSite
from fedafd.learning.local_training import train_locally
from fedafd.learning.personalized_model import PersonalizedModel
from fedafd.learning.server_round import Prepared, initial_server_state, prepare
from fedafd.learning.site_evaluation import SiteEvaluator
from fedafd.learning.tasks import Classification, MultiLabel, find_task, task_names

LABELLED = [ClientKind.IMAGE, ClientKind.TEXT]
MULTI = StateFingerprint(task=TaskConfig(name="multi-label"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@cache
def prepared() -> Prepared:
    config, public = tiny_federation(), tiny_public()["train"]
    state = initial_server_state(config=config, captions=public.captions, seed=3)
    return prepare(config=config, state=state, public=public, round_number=1, seed=4, device="cpu")


def arguments(kind: ClientKind, **changes: Any) -> dict[str, Any]:
    return {
        "config": tiny_federation(client={"local_epochs": 3}),
        "kind": kind,
        "data": several_labels(kind),
        "global_representations": prepared().representations,
        "bundles": {m: prepared().bundles[m] for m in kind.modalities},
        "device": "cpu",
    } | changes


def trained(kind: ClientKind, state: bytes | None = None, **changes: Any) -> ClientRound:
    return train_client(
        image_encoder=None,
        text_encoder=None,
        public=tiny_public()["train"],
        state=state,
        round_number=1 if state is None else 2,
        seed=5,
        **arguments(kind, **({"fingerprint": MULTI} | changes)),
    )


@cache
def one_round(kind: ClientKind) -> ClientRound:
    return trained(kind)


@pytest.mark.parametrize("kind", LABELLED)
def test_a_round_with_several_labels_measures_every_branch_by_ranking(kind: ClientKind) -> None:
    made = one_round(kind)
    for branch in ("federated", "fused", "local", "global", "alone"):
        assert {name.partition("/")[2] for name in made.metrics if name.startswith(f"{branch}/")} == {
            "lrap",
            "map",
            "micro_f1",
        }
    assert made.metrics["federated/lrap"] == pytest.approx(made.scores.mean())
    assert {name for name in made.metrics if not name.startswith("gate_offset/")} <= CLIENT_METRICS


@pytest.mark.parametrize("kind", LABELLED)
def test_a_state_goes_on_and_is_evaluated_by_the_task_that_it_was_made_for(kind: ClientKind) -> None:
    made = one_round(kind)
    assert evaluate_client(state=made.state, **arguments(kind)).metrics == pytest.approx(made.metrics)
    assert trained(kind, made.state).differences == ()


def test_labels_are_learned() -> None:
    kind = ClientKind.TEXT
    site = LocalSite(
        tiny_federation(client={"local_epochs": 25}),
        kind,
        {},
        several_labels(kind),
        None,
        5,
        "cpu",
        sent=None,
        fingerprint=MULTI,
    )
    evaluator = SiteEvaluator(site)
    before = evaluator.assess("val").metrics["federated/map"]
    train_locally(site, 1)
    assert evaluator.assess("val").metrics["federated/map"] > before
    learned = evaluator.assess("train").metrics
    assert learned["federated/map"] > 85
    assert learned["federated/micro_f1"] > 60


@pytest.mark.parametrize("kind", LABELLED)
def test_a_models_folder_predicts_each_label_by_itself(kind: ClientKind, tmp_path: Path) -> None:
    made, data = one_round(kind), several_labels(kind)
    recipe = dataclasses.replace(tiny_recipe(kind, metrics=made.metrics), config=arguments(kind)["config"])
    files = shared_files(recipe, state=made.state, bundles=arguments(kind)["bundles"])
    model = PersonalizedModel.from_pretrained(write_files(files, tmp_path), device="cpu")
    samples: Any = data.test.texts if hasattr(data.test, "texts") else [np.asarray(i) for i in data.test.images]
    found = model.predict(samples, top_k=len(LABELS))
    odds = torch.tensor([[dict(each)[name] for name in LABELS] for each in found], dtype=torch.float64)
    labels = torch.from_numpy(data.test.labels)  # type: ignore[union-attr]
    assert float(label_ranking_scores(odds, labels).mean()) == pytest.approx(made.metrics["federated/lrap"], abs=0.1)
    assert not torch.allclose(odds.sum(dim=1), torch.ones(len(odds), dtype=torch.float64))
    card = files["README.md"].decode()
    assert "Task `multi-label`" in card
    assert "label_ranking_average_precision" in card


def test_the_pool_of_independent_labels_is_the_mean_of_their_logits() -> None:
    logits = [torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 0.0]])]
    assert MultiLabel().pool(logits, [0.25, 0.75]).tolist() == [[2.5, -0.5]]
    assert MultiLabel().pool(logits, [0.0, 1.0]) is logits[1]


def test_a_branch_without_which_labels_rank_better_gets_no_weight() -> None:
    labels = torch.tensor([[1, 0], [0, 1]] * 20, dtype=torch.uint8)
    right, wrong = labels.double() * 4 - 2, 2 - labels.double() * 4
    assert MultiLabel().fit_pool([right, wrong], labels, labels) == (1.0, 0.0)
    assert MultiLabel().fit_pool([wrong, right], labels, labels)[1] > 0.5


@pytest.mark.parametrize(
    ("data", "task", "told"),
    [
        (tiny_private, "multi-label", "one class a sample, but the task wants several labels"),
        (several_labels, "classification", "several labels a sample, but the task wants one class"),
    ],
)
def test_labels_of_another_form_than_the_tasks_are_refused_with_what_to_set(data: Any, task: str, told: str) -> None:
    fingerprint = StateFingerprint(task=TaskConfig(name=task))
    with pytest.raises(DataError, match=f"{told}.*task.name"):
        trained(ClientKind.TEXT, data=data(ClientKind.TEXT), fingerprint=fingerprint)


@pytest.mark.parametrize(
    ("config", "kind", "told"),
    [
        ({"name": "regression"}, ClientKind.IMAGE, "'regression' is not known; installed: .*multi-label"),
        ({"name": "multi-label"}, ClientKind.PAIR, "serves clients of kind image, text, not pair"),
        ({"name": "retrieval"}, ClientKind.TEXT, "serves clients of kind pair, not text"),
        ({"name": "classification", "options": {"gamma": 2}}, ClientKind.TEXT, "task.options.gamma"),
    ],
)
def test_a_task_that_cannot_be_is_refused_by_name(config: Any, kind: ClientKind, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        find_task(TaskConfig.model_validate(config), kind)


def test_the_built_in_tasks_stand_behind_the_seam() -> None:
    assert {"classification", "multi-label", "retrieval"} <= set(task_names())
    for kind in ClientKind:
        assert kind in find_task(usual_task(kind), kind).kinds


def test_a_state_of_another_task_is_refused() -> None:
    kind = ClientKind.TEXT
    made = one_round(kind)
    other = StateFingerprint(task=TaskConfig(name="classification"))
    with pytest.raises(StateUnusableError, match="task: was multi-label, is classification"):
        trained(kind, made.state, fingerprint=other)


def test_a_state_of_before_tasks_had_names_is_the_usual_ones() -> None:
    kind = ClientKind.TEXT
    checkpoint = Checkpoint.from_bytes(one_round(kind).state)
    checkpoint.meta["fingerprint"].pop("task")
    with pytest.raises(StateUnusableError, match="task: was classification, is multi-label"):
        trained(kind, checkpoint.to_bytes())


class Smoothed(Classification):
    """Another loss of one class a sample."""

    def loss(self, logits_BC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits_BC, labels.long(), label_smoothing=0.2)


@pytest.mark.parametrize("task", [Classification(), Smoothed(), MultiLabel()], ids=lambda each: type(each).__name__)
def test_losses_at_once_are_the_losses_apart(task: Any) -> None:
    torch.manual_seed(0)
    head: nn.Module = task.make_head(6, 3).double()
    views = [torch.randn(5, 6, dtype=torch.float64) for _ in range(3)]
    labels = torch.randint(0, 2, (5, 3)) if task.several_labels else torch.randint(0, 3, (5,))
    apart = torch.stack([task.loss(head(view), labels) for view in views])
    torch.testing.assert_close(task.losses(head, views, labels), apart)


def test_new_labels_get_rows_and_the_others_keep_theirs() -> None:
    kind = ClientKind.TEXT
    made, data = one_round(kind), several_labels(kind)
    more = dataclasses.replace(data, labels=("wide", *LABELS))
    wide = {
        name: dataclasses.replace(
            getattr(data, name), labels=np.pad(getattr(data, name).labels, ((0, 0), (1, 0)), constant_values=1)
        )
        for name in ("train", "val", "test")
    }
    again = trained(kind, made.state, data=dataclasses.replace(more, **wide))
    assert [each.case for each in again.differences] == ["classes-added"]
    kept = Checkpoint.from_bytes(again.state)
    assert kept.meta["labels"] == [*LABELS, "wide"]
    assert len(kept.tensors["model/head.free_weight"]) == 4
