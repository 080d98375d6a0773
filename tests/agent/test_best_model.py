"""`fedafd agent export --best` takes the best by the validation split, whatever the test split says, and tells why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from tests.agent.compared import ComparedSite
from typer.testing import CliRunner, Result

from fedafd import PersonalizedModel
from fedafd.agent.baseline import advance
from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.best_model import choose_best
from fedafd.agent.history import History
from fedafd.agent.kept_scores import KeptScores, SplitScores
from fedafd.agent.own_data import load_own_data
from fedafd.cli.main import app
from fedafd.domain.errors import ConflictError, DataError
from fedafd.domain.kinds import ClientKind
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.evaluation import Evaluation
from fedafd.learning.personalized_model import Branch

VIEWS = ("federated", "local", "global", "alone")


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["agent", "export", *map(str, arguments)])


def rescored(site: ComparedSite, **values: tuple[float, float]) -> None:
    """Give each view these values on the validation and on the test split, in place of what it got."""
    for place in [*(site.root / "state" / "history").glob("*.npz"), *BaselineFolder(site.root).folder.glob("*.npz")]:
        kept = KeptScores.read(place)
        assert kept is not None
        splits = {}
        for at, (name, split) in enumerate(sorted(kept.splits.items(), reverse=True)):
            views = {}
            for view, each in split.views.items():
                value = values.get(view, (10.0, 10.0))[at]
                metric = "rsum" if "rsum" in each.metrics else "acc1"
                views[view] = Evaluation(each.metrics | {metric: value}, np.full(len(each.scores), value))
            splits[name] = SplitScores(split.samples, views)
        KeptScores(splits, kept.about).write(place)


@pytest.fixture(scope="module", params=list(ClientKind))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ComparedSite:
    site = ComparedSite(tmp_path_factory.mktemp("site"), request.param)
    site.train_for(epochs=4)
    site.deliver(1)
    advance(site.config)
    return site


def answers(folder: Path, kind: ClientKind, branch: Branch = "personalized") -> object:
    model = PersonalizedModel.from_pretrained(folder, device="cpu")
    if kind is ClientKind.PAIR:
        return model.embed_texts(["two red dogs", "a circle"]).tolist()
    samples: Any = (
        ["two red dogs", "a blue circle"] if kind is ClientKind.TEXT else [np.full((32, 32, 3), 90, np.uint8)]
    )
    return model.predict(samples, top_k=3, branch=branch)


@pytest.mark.parametrize("best", VIEWS)
def test_each_of_the_four_is_chosen_by_validation_and_answers_as_itself(
    trained: ComparedSite, tmp_path: Path, best: str
) -> None:
    # On the test split every other one is better.
    tested = {view: (90.0 if view == best else 50.0, 10.0 if view == best else 95.0) for view in VIEWS}
    rescored(trained, **tested)
    result = ask(tmp_path / "best", "--best", "--state-dir", trained.root)
    assert result.exit_code == 0, result.exception
    choice = choose_best(trained.root)
    assert choice.view == best
    card = (tmp_path / "best" / "README.md").read_text(encoding="utf-8")
    assert "## Which model this is" in card
    assert "of the validation split" in card
    assert choice.words() in result.stderr
    data = ModelCard(card, ignore_metadata_errors=False).data
    assert isinstance(data, ModelCardData)
    told = {str(each.metric_name).partition("/")[0] for each in data.eval_results or ()}
    assert told == ({"federated", "local", "global"} if best == "federated" else {best})
    found = answers(tmp_path / "best", trained.kind)
    if trained.kind is not ClientKind.PAIR and best != "alone":
        branches: dict[str, Branch] = {"federated": "personalized", "local": "own", "global": "global"}
        assert found == answers(trained.root / "model", trained.kind, branches[best])
    if best != "federated":
        assert found != answers(trained.root / "model", trained.kind)


@pytest.mark.parametrize("best", ["federated", "alone"])
def test_a_branch_that_is_trained_alone_is_a_candidate_without_a_baseline(tmp_path: Path, best: str) -> None:
    site = ComparedSite(tmp_path, alone_branch=True)
    site.deliver(1)
    site.deliver(2)
    rescored(site, **{best: (90.0, 0.0)})
    choice = choose_best(site.root)
    assert (choice.view, choice.baseline_rounds) == (best, 2)
    assert ask(tmp_path / "best", "--best", "--config", site.file).exit_code == 0
    chosen = PersonalizedModel.from_pretrained(tmp_path / "best", device="cpu")
    held = PersonalizedModel.from_pretrained(site.root / "model", device="cpu")
    texts = ["two red dogs", "a blue circle"]
    if best == "federated":
        assert chosen.predict(texts, top_k=3) == held.predict(texts, top_k=3)
        return
    kept = Checkpoint.from_bytes(site.state.current_state()[1]).nested("alone")  # type: ignore[index]
    assert kept is not None
    head = chosen._model.head
    assert head is not None
    assert torch.equal(head.free_weight, kept.tensors["model/head.free_weight"])
    card = (tmp_path / "best" / "README.md").read_text(encoding="utf-8")
    assert "trained alone, without the federation, for 2 rounds" in card


def test_of_equals_the_personalized_model_is_taken(trained: ComparedSite) -> None:
    rescored(trained)
    assert choose_best(trained.root).view == "federated"


def test_the_chosen_alone_model_is_as_good_as_it_was_measured(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.train_for(epochs=10)
    site.deliver(1)
    advance(site.config)
    rescored_alone = BaselineFolder(site.root).scores(1)
    assert rescored_alone is not None
    measured = rescored_alone.splits["test"].views["alone"].metrics["acc1"]
    rescored(site, alone=(90.0, 0.0))
    assert ask(tmp_path / "best", "--best", "--config", site.file).exit_code == 0
    model = PersonalizedModel.from_pretrained(tmp_path / "best", device="cpu")
    data = load_own_data(site.config, site.root).data
    found = [label for label, _ in model.predict(list(data.test.texts))]  # type: ignore[union-attr]
    right = [label == data.labels[row] for label, row in zip(found, data.test.labels, strict=True)]  # type: ignore[union-attr]
    assert 100 * sum(right) / len(right) == pytest.approx(measured)


def test_without_a_baseline_the_card_says_that_it_was_no_candidate(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)
    assert "alone" not in choose_best(site.root).values
    assert ask(tmp_path / "best", "--best", "--state-dir", site.root).exit_code == 0
    assert "was not there to choose" in (tmp_path / "best" / "README.md").read_text(encoding="utf-8")
    again = ask(tmp_path / "best", "--best", "--state-dir", site.root)
    assert isinstance(again.exception, ConflictError)
    assert ask(tmp_path / "best", "--best", "--force", "--state-dir", site.root).exit_code == 0


def test_without_a_validation_split_or_a_round_nothing_is_chosen(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    with pytest.raises(DataError, match="no delivered round"):
        choose_best(site.root)
    result = site.train(1)
    assert result.scores is not None
    kept = KeptScores.from_bytes(result.scores)
    site.deliver(1, result, KeptScores({"test": kept.splits["test"]}).to_bytes())
    failed = ask(tmp_path / "best", "--best", "--state-dir", site.root)
    assert isinstance(failed.exception, DataError)
    assert "no scores of a validation split" in str(failed.exception)
    assert not (tmp_path / "best").exists()


def test_a_model_folder_of_another_round_is_not_taken_for_the_chosen_one(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)
    described = (site.root / "model").resolve() / "config.json"
    values = json.loads(described.read_bytes())
    described.write_text(json.dumps(values | {"lineage": {"round": 7}}), encoding="utf-8")
    failed = ask(tmp_path / "best", "--best", "--state-dir", site.root)
    assert isinstance(failed.exception, DataError)
    assert "try again" in str(failed.exception)
    assert len(History(site.root).rounds()) == 1
