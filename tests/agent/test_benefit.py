"""Whether a round helped the site is told with its error, and a model that is worse is told to be worse."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from tests.agent.compared import ComparedSite
from tests.datasets.makers import image_folder, picture

from fedafd.agent.baseline import advance
from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.benefit import RoundBenefit, benefits
from fedafd.agent.comparing import Comparing
from fedafd.agent.history import History
from fedafd.agent.kept_scores import KeptScores, SplitScores, samples_digest
from fedafd.agent.outgoing import metrics_to_send
from fedafd.agent.own_data import load_own_data
from fedafd.agent.state import SCORES_FILE, StateDirectory
from fedafd.domain.config import SharingConfig, parse_agent_config
from fedafd.domain.errors import DataError
from fedafd.domain.leaving import CLIENT_METRICS
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.evaluation import Evaluation

FULL = np.full(40, 100.0)
HALF = np.tile([0.0, 100.0], 20)
SPARSE = np.where(np.arange(40) == 0, 100.0, 0.0)


def split(samples: str = "same", **scores: np.ndarray) -> SplitScores:
    views = {view.removesuffix("_"): Evaluation({"acc1": float(each.mean())}, each) for view, each in scores.items()}
    return SplitScores(samples, views)


def noted(root: Path, number: int, *, participation: int = 1, **splits: SplitScores) -> None:
    about = {"participation": participation, "delivered_at": "2026-01-02T03:04:05+00:00"}
    KeptScores(splits, about).write(root / "state" / "history" / f"round-{number}.npz")


def trained_alone(root: Path, rounds: int = 1, **splits: SplitScores) -> None:
    BaselineFolder(root).keep(rounds, b"state", KeptScores(splits))


def only(root: Path) -> RoundBenefit:
    (found,) = benefits(root)
    return found


def test_scores_come_back_from_their_file_as_they_were() -> None:
    kept = KeptScores({"test": split(federated=HALF, local=FULL), "val": split(federated=SPARSE)}, {"rounds": 3})
    again = KeptScores.from_bytes(kept.to_bytes())
    assert again.about == {"rounds": 3}
    assert set(again.splits) == {"test", "val"}
    assert np.array_equal(again.splits["test"].views["federated"].scores, HALF)
    assert again.splits["val"].views["federated"].metrics == {"acc1": 2.5}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a file of numpy"])
def test_a_damaged_file_of_scores_is_told_as_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="not scores"):
        KeptScores.from_bytes(content)
    (tmp_path / "x.npz").write_bytes(content)
    assert KeptScores.read(tmp_path / "x.npz") is None


def test_a_model_that_is_better_is_told_with_the_error_of_the_difference(tmp_path: Path) -> None:
    noted(tmp_path, 4, test=split(federated=FULL, local=FULL, global_=SPARSE))
    trained_alone(tmp_path, test=split(alone=HALF))
    # 50 with a deviation of 50.64 of each sample's difference, over the root of 40.
    assert only(tmp_path).words() == (
        "round 4: personalized model 100.0, own branch 100.0 (+0.0 ± 0.0), frozen global model 2.5 (+97.5 ± 2.5),"
        " trained alone 50.0 (+50.0 ± 8.0) (acc1 in % on 40 test samples)"
    )
    assert only(tmp_path).warnings() == []


def test_a_model_that_is_worse_than_alone_or_global_says_so(tmp_path: Path) -> None:
    noted(tmp_path, 4, test=split(federated=SPARSE, local=SPARSE, global_=FULL))
    trained_alone(tmp_path, test=split(alone=HALF))
    alone, frozen = only(tmp_path).warnings()
    assert "round 4 is worse than the same model trained alone, by 47.5 ± 8.8" in alone
    assert "round 4 is worse than the frozen global model, by 97.5 ± 2.5" in frozen
    assert "`fedafd agent export FOLDER --best`" in alone


def test_a_difference_within_its_error_is_no_warning(tmp_path: Path) -> None:
    one = np.where(np.arange(40) < 19, 100.0, 0.0)
    two = np.where(np.arange(40) < 20, 100.0, 0.0)
    noted(tmp_path, 4, test=split(federated=one, local=one, global_=two))
    assert only(tmp_path).splits["test"].differences["global"].mean == -2.5
    assert only(tmp_path).warnings() == []


def test_a_baseline_of_other_rounds_or_other_samples_is_not_compared(tmp_path: Path) -> None:
    noted(tmp_path, 4, participation=3, test=split(federated=FULL))
    trained_alone(tmp_path, 2, test=split(alone=HALF))
    assert "alone" not in only(tmp_path).splits["test"].values
    trained_alone(tmp_path, 3, test=split("others", alone=HALF))
    assert "alone" not in only(tmp_path).splits["test"].values
    trained_alone(tmp_path, 3, test=split(alone=HALF))
    assert only(tmp_path).splits["test"].values["alone"] == 50.0


def test_pictures_of_the_same_names_with_another_content_or_intensity_range_are_other_samples(tmp_path: Path) -> None:
    image_folder(tmp_path / "data", splits=True)

    def digest(**options: object) -> str:
        data = {"adapter": "image-folder", "path": str(tmp_path / "data"), "options": options}
        values = {"aggregator": "127.0.0.1:1", "kind": "image", "state_dir": str(tmp_path), "data": data}
        own = load_own_data(parse_agent_config(values), tmp_path)
        return samples_digest(own.data, "test", own.fingerprint)

    found = [digest(), digest(intensity_range=[0, 1000]), digest(intensity_range=[0, 2000])]
    assert digest() == found[0]
    (tmp_path / "data" / "train" / "dog" / "0.png").write_bytes(picture(501))
    assert digest() == found[0]
    (tmp_path / "data" / "test" / "dog" / "0.png").write_bytes(picture(502))
    assert len({*found, digest()}) == 4


def test_without_test_samples_the_validation_split_is_told_and_without_both_nothing(tmp_path: Path) -> None:
    noted(tmp_path, 1, val=split(federated=HALF))
    assert only(tmp_path).words() == "round 1: personalized model 50.0 (acc1 in % on 40 val samples)"
    assert only(tmp_path).metrics() == {}
    noted(tmp_path, 1)
    assert "nothing to compare" in only(tmp_path).words()
    assert only(tmp_path).warnings() == []


def test_what_is_told_to_the_operator_has_names_of_the_list_and_stays_where_metrics_stay(tmp_path: Path) -> None:
    noted(tmp_path, 4, test=split(federated=FULL, local=HALF, global_=SPARSE))
    trained_alone(tmp_path, test=split(alone=HALF))
    found = only(tmp_path).metrics()
    assert found.keys() <= CLIENT_METRICS
    assert found["alone/acc1"] == 50.0
    assert found["over_alone/difference"] == 50.0
    assert found["over_alone/standard_error"] == pytest.approx(8.006, abs=1e-3)
    assert metrics_to_send(found, SharingConfig()) == found
    assert metrics_to_send(found, SharingConfig(metrics=False)) == {}


def test_a_model_made_worse_on_purpose_is_found_out(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    # So that it learns far more than chance, whatever the last bits of a platform are.
    site.train_for(epochs=12, learning_rate=0.01)
    site.deliver(1)
    advance(site.config, ahead=1)
    current = site.state.current_state()
    assert current is not None
    broken, noise = Checkpoint.from_bytes(current[1]), torch.Generator().manual_seed(1)
    for name, tensor in broken.tensors.items():
        if name.startswith(("model/encoders", "model/fusions", "model/head")) and tensor.is_floating_point():
            broken.tensors[name] = torch.randn(tensor.shape, generator=noise)
    # A round that does not mend it: its steps are of no length.
    site.train_for(epochs=1, learning_rate=1e-9)
    site.deliver(2, site.train_from(2, broken.to_bytes()))
    last = benefits(site.root)[-1]
    assert last.splits["test"].differences["alone"].is_below
    assert any("is worse than the same model trained alone" in each for each in last.warnings())


def test_the_agent_logs_one_line_a_round_and_a_warning_for_a_worse_model(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    scores = KeptScores({"test": split(federated=SPARSE, local=SPARSE, global_=FULL)}).to_bytes()
    result = site.train(1)
    with capture_logs() as logs:
        comparing = Comparing(site.config, site.state)
        site.deliver(1, result, scores, follow=False)
        asyncio.run(comparing.follow())
        asyncio.run(comparing.follow())
    told = [each for each in logs if each["event"] in ("agent.compared", "agent.model_is_worse")]
    assert [each["event"] for each in told] == ["agent.compared", "agent.model_is_worse"]
    assert told[0]["summary"].startswith("round 1: personalized model 2.5")


def test_the_metrics_of_a_round_hold_the_baseline_of_as_many_rounds(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    comparing = Comparing(site.config, site.state)
    first = site.deliver(1)
    assert "alone/acc1" not in comparing.metrics(first.scores)
    advance(site.config, ahead=1)
    second = comparing.metrics(site.train(2).scores)
    assert {"alone/acc1", "over_alone/difference", "over_alone/standard_error"} <= second.keys()
    assert second["alone/acc1"] == BaselineFolder(site.root).scores(2).splits["test"].views["alone"].metrics["acc1"]  # type: ignore[union-attr]
    assert comparing.metrics(None) == {}


def test_a_state_of_an_agent_without_history_counts_all_rounds_that_it_may_have_trained(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(5, follow=False)
    current = site.state.current_folder()
    assert current is not None
    (current[1] / SCORES_FILE).unlink()
    state = StateDirectory(site.root)
    assert History(site.root).follow(state)
    assert not History(site.root).follow(state)
    (found,) = History(site.root).rounds()
    assert (found.number, found.participation, found.splits) == (5, 5, {})
    site.deliver(6)
    assert [each.participation for each in History(site.root).rounds()] == [5, 6]
