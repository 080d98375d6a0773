"""A run that is interrupted within a round does nothing twice that it kept, and ends at the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.simulation.test_simulate import TINY, figures
from tests.simulation.tiny_federation import FEDERATION

from fedafd.domain.config import parse_federation_config
from fedafd.domain.kinds import ClientKind
from fedafd.domain.presets import merged
from fedafd.learning import waypoints
from fedafd.simulation.effort import DISTIL, EVALUATE, PREPARE, ClientSize, Effort
from fedafd.simulation.experiment import ExperimentConfig, RunKey, read_experiment
from fedafd.simulation.run import run_one

KEY = RunKey(scenario="iid", strategy="fedafd", seed=0)


class StoppedError(Exception):
    """What a signal is to a process."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def experiment_of(folder: Path, **more: Any) -> ExperimentConfig:
    clients = [group | {"count": 1} for group in TINY["clients"]]
    values = TINY | {"strategies": ["fedafd"], "clients": clients, "rounds": 3, "participation": 0.5}
    return read_experiment(None, values | more, folder)


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentConfig:
    return experiment_of(tmp_path)


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_a_run_that_is_stopped_at_every_stage_ends_at_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: str
) -> None:
    more: dict[str, Any] = {}
    first_stopped = 1
    if trainable == "lora":
        pytest.importorskip("peft", reason="the extra `lora` is not installed")
        # Of the server and of each client, whose encoders are as the server's.
        trained = {"image_encoder": {"trainable": "lora"}, "text_encoder": {"trainable": "lora"}}
        more = {"federation": merged(FEDERATION, trained), "rounds": 2, "participation": 1.0}
        first_stopped = 2
    experiment = experiment_of(tmp_path, **more)
    told: list[str] = []
    unbroken = run_one(
        experiment, KEY, tmp_path / "unbroken", device="cpu", watch=lambda n, _, words: told.append(f"{n} {words}")
    )
    monkeypatch.setattr(waypoints, "EVERY_SECONDS", 0.0)
    begun: list[str] = []

    def stop_after_something_new(number: int, _: float, words: str) -> None:
        begun.append(f"{number} {words}")
        if begun.count(begun[-1]) == 1 and number >= first_stopped:
            raise StoppedError

    result: dict[str, Any] | None = None
    while result is None:
        assert len(begun) < 50 * len(told)
        try:
            result = run_one(experiment, KEY, tmp_path / "broken", device="cpu", watch=stop_after_something_new)
        except StoppedError:
            continue
    assert figures(result) == figures(unbroken)
    assert set(begun) == set(told)
    assert not list((tmp_path / "broken" / KEY.folder).glob("round-*"))


def test_what_a_round_has_done_is_not_done_again(tmp_path: Path, experiment: ExperimentConfig) -> None:
    def stop_at_distillation(number: int, _: float, words: str) -> None:
        if "distillation" in words:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_one(experiment, KEY, tmp_path / "out", device="cpu", watch=stop_at_distillation)
    folder = tmp_path / "out" / KEY.folder / "round-1"
    clients = {path.name for path in folder.glob("client-*") if not path.name.endswith(".way")}
    assert clients == {"client-image-0-000", "client-text-1-000", "client-pair-2-000"}
    told: list[str] = []
    run_one(experiment, KEY, tmp_path / "out", device="cpu", watch=lambda n, _, words: told.append(f"{n} {words}"))
    first = [words for words in told if words.startswith("1 ")]
    assert first
    assert not [words for words in first if "epoch" in words or "server: public pass" in words]


def test_stages_of_another_round_go(tmp_path: Path, experiment: ExperimentConfig) -> None:
    stale = tmp_path / "out" / KEY.folder / "round-7" / "prepare"
    stale.mkdir(parents=True)
    run_one(experiment, KEY, tmp_path / "out", device="cpu")
    assert not stale.exists()


def test_shares_rise_evenly_to_one() -> None:
    config = parse_federation_config(
        {"name": "tiny", "server": {"initial_passes": 10}} | {"distillation": {"passes": 2}}
    )
    sizes = {"a": ClientSize(ClientKind.IMAGE, 100, 10), "b": ClientSize(ClientKind.PAIR, 50, 10)}
    effort = Effort(config, 200, sizes, rounds=3)
    stages = [PREPARE, "a", "b", DISTIL, EVALUATE]
    shares = [effort.share(n, stage, f) for n in (1, 2, 3) for stage in stages for f in (0.0, 0.5, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == pytest.approx(1.0)
    assert effort.share(1, PREPARE, 1.0) > 2 * (effort.share(2, PREPARE, 1.0) - effort.share(2, PREPARE, 0.0))


def test_a_runs_share_never_falls_whatever_order_its_groups_have(tmp_path: Path) -> None:
    group = {"count": 1, "adapter": "shapes", "options": {"num_train": 8, "num_val": 8, "num_test": 8}}
    clients = [group | {"kind": kind} for kind in ("text", "pair", "image")]
    shares: list[float] = []
    run_one(
        ExperimentConfig.model_validate(TINY | {"rounds": 1, "clients": clients}),
        KEY,
        tmp_path / "out",
        device="cpu",
        watch=lambda _, share, __: shares.append(share),
    )
    assert len(set(shares)) > 5
    assert shares == sorted(shares)


def test_a_branch_that_trains_alone_is_work_of_classifiers_alone() -> None:
    def client(kind: ClientKind, **fusion: bool) -> float:
        config = parse_federation_config({"name": "made", "fusion": fusion})
        effort = Effort(config, 200, {"a": ClientSize(kind, 100, 20)}, rounds=1)
        return effort.share(1, "a", 1.0) - effort.share(1, "a", 0.0)

    for kind in (ClientKind.IMAGE, ClientKind.TEXT):
        assert client(kind) > client(kind, alone_branch=False)
    assert client(ClientKind.PAIR) == client(ClientKind.PAIR, alone_branch=False)
