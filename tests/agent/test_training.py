"""Training in a thread: watched at most once per interval, stopped when the round closes or the agent stops."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedafd.agent.training import (
    LocalResult,
    LocalTask,
    ProgressCallback,
    TrainingCancelledError,
    WorkCount,
    train_watched,
)
from fedafd.domain.config import parse_federation_config
from fedafd.domain.kinds import Modality
from fedafd.domain.leaving import Activity, ActivityKind

RESULT = LocalResult(
    representations=b"reps", state=b"state", personalized_model=None, metrics={"m": 1.0}, num_private_samples=1
)
TASK = LocalTask(
    round_id="r",
    round_number=1,
    seed=5,
    config=parse_federation_config({"name": "f"}),
    public_set_sha256="a" * 64,
    manifest=Path("m"),
    shards=[Path("s")],
    global_representations=Path("g"),
    encoder_bundles={Modality.IMAGE: Path("i")},
    previous_state=None,
    share_model=False,
)


class StepTrainer:
    """Takes `steps` steps of `seconds` each and tells about each one."""

    def __init__(self, steps: int, seconds: float, end: Callable[[], LocalResult] = lambda: RESULT) -> None:
        self.steps, self.seconds, self.end = steps, seconds, end
        self.taken = 0
        self.threads: set[int] = set()

    def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
        for step in range(self.steps):
            time.sleep(self.seconds)
            progress((step + 1) / self.steps, Activity(ActivityKind.TRAINING, step + 1, self.steps))
            self.taken += 1
            self.threads.add(threading.get_ident())
        return self.end()


async def _yes(fraction: float, activity: Activity) -> bool:
    return True


def test_result_comes_back_and_progress_is_throttled() -> None:
    heard: list[tuple[float, Activity]] = []

    async def report(fraction: float, activity: Activity) -> bool:
        heard.append((fraction, activity))
        return True

    trainer, work = StepTrainer(steps=60, seconds=0.01), WorkCount()
    result = asyncio.run(
        train_watched(trainer, TASK, stop=asyncio.Event(), report=report, work=work, interval_seconds=0.1)
    )
    assert result == RESULT
    assert work.done == 1 + len(heard), "the number of steps would tell how many samples there are"
    assert 1 <= len(heard) <= 12
    assert heard == sorted(heard)
    assert trainer.threads.isdisjoint({threading.get_ident()})


def test_closed_round_stops_the_training() -> None:
    async def report(fraction: float, activity: Activity) -> bool:
        return False

    trainer = StepTrainer(steps=1000, seconds=0.01)
    with pytest.raises(TrainingCancelledError):
        asyncio.run(train_watched(trainer, TASK, stop=asyncio.Event(), report=report, interval_seconds=0.05))
    assert trainer.taken < 100


def test_stopping_the_agent_stops_the_training() -> None:
    trainer = StepTrainer(steps=1000, seconds=0.01)

    async def scenario() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, stop.set)
        await train_watched(trainer, TASK, stop=stop, report=_yes)

    with pytest.raises(TrainingCancelledError):
        asyncio.run(scenario())
    assert trainer.taken < 100


def test_silent_training_reports_nothing_so_that_a_hang_is_found_out() -> None:
    heard: list[float] = []

    async def report(fraction: float, activity: Activity) -> bool:
        heard.append(fraction)
        return True

    class Silent:
        def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
            time.sleep(0.2)
            return RESULT

    asyncio.run(train_watched(Silent(), TASK, stop=asyncio.Event(), report=report, interval_seconds=0.02))
    assert heard == []


def test_failure_of_the_training_comes_through() -> None:
    def fail() -> LocalResult:
        raise ValueError("no such batch")

    with pytest.raises(ValueError, match="no such batch"):
        asyncio.run(train_watched(StepTrainer(1, 0, fail), TASK, stop=asyncio.Event(), report=_yes))


def test_failure_of_the_report_stops_the_training_and_comes_through() -> None:
    async def report(fraction: float, activity: Activity) -> bool:
        raise ConnectionError("revoked")

    trainer = StepTrainer(steps=1000, seconds=0.01)
    with pytest.raises(ConnectionError, match="revoked"):
        asyncio.run(train_watched(trainer, TASK, stop=asyncio.Event(), report=report, interval_seconds=0.05))
    assert trainer.taken < 100


@pytest.mark.parametrize(
    "change",
    [
        {"round_id": "other"},
        {"seed": 6},
        {"previous_state": b"state"},
        {"share_model": True},
        {"public_set_sha256": "b" * 64},
        {"global_representations": Path("other")},
        {"encoder_bundles": {Modality.IMAGE: Path("other")}},
        {"config": parse_federation_config({"name": "f", "seed": 1})},
    ],
)
def test_a_saved_result_fits_its_own_task_only(change: dict[str, object]) -> None:
    assert dataclasses.replace(TASK).key() == TASK.key()
    assert dataclasses.replace(TASK, **change).key() != TASK.key()  # type: ignore[arg-type]
