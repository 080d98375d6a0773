"""A distiller that dies or ends in the middle of a long stage: the next one makes the steps that are left, no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.federation import FEDERATION, KINDS
from tests.end_to_end.in_process import InProcess, assert_same, pulled
from tests.end_to_end.storm import Storm
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd.local.supervisor import Supervisor

pytestmark = pytest.mark.timeout(400)

STEPS_PER_PASS = 4
PREPARING_PASSES, DISTILLING_PASSES = 3, 3
VALUES = FEDERATION | {
    "server": FEDERATION["server"] | {"initial_passes": PREPARING_PASSES - FEDERATION["server"]["passes"]},
    "distillation": FEDERATION["distillation"] | {"passes": DISTILLING_PASSES},
}
LONG = {"prepare": PREPARING_PASSES, "distil": DISTILLING_PASSES}
OTHERS = ("fold", "weigh", "merge", "evaluate", "complete", "given")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with LoggedSupervisor(tmp_path / "logs") as started:
        yield started


def told(folder: Path, event: str) -> list[dict[str, Any]]:
    """What distillers logged by that name, in the order of time."""
    lines = [line for path in folder.glob("*distiller*.log") for line in path.read_text().splitlines()]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return sorted((one for one in events if one["event"] == event), key=lambda one: str(one["timestamp"]))


@pytest.mark.parametrize(
    ("how", "settings", "again"),
    [
        # It dies at the begin of a step, while the one before may be on its way to the store.
        ("SIGKILL", {"FEDAFD_DISTILLER_KEEP_PROGRESS_SECONDS": "0"}, {1, 2}),
        # Asked to end, with nothing kept so far.
        (
            "SIGTERM",
            {"FEDAFD_DISTILLER_KEEP_PROGRESS_SECONDS": "3600", "FEDAFD_DISTILLER_SHUTDOWN_GRACE_SECONDS": "0"},
            {0},
        ),
    ],
)
def test_the_next_distiller_goes_on_from_the_step_at_which_the_last_one_ended(
    supervisor: Supervisor, tmp_path: Path, how: str, settings: dict[str, str], again: set[int]
) -> None:
    steps = tmp_path / "steps"
    steps.mkdir()
    storm = Storm(
        supervisor, tmp_path, values=VALUES, settings=settings | {"DOOMED_SIGNAL": how, "DOOMED_STEPS": str(steps)}
    )
    try:
        for name in OTHERS:  # these kill nobody here
            (storm.marks / name).touch()
        trial = storm.trial
        trial.invite_all()
        for name in KINDS:
            trial.start_agent(name)
        trial.until(lambda: all(c["state"] == "enrolled" for c in trial.rest.clients()), "the agents", 120)
        storm.start_distillers(1)
        trial.rest.start_rounds(1)
        answer = trial.rest.wait_for_round(1, storm.restart_the_dead, seconds=240)
        assert storm.deaths == len(LONG)
        outcome = pulled(trial, answer, 1)
    finally:
        storm.close()
    supervisor.stop()

    for kind, passes in LONG.items():
        begun = [line for line in (steps / kind).read_text().splitlines() if line.startswith("public pass")]
        assert len(begun) - passes * STEPS_PER_PASS in again, kind
    resumed = told(tmp_path / "logs", "stage.goes_on")
    assert [one["stage"] for one in resumed] == ["prepare", "distil"]
    assert all(0 < one["done"] < passes * STEPS_PER_PASS for one, passes in zip(resumed, LONG.values(), strict=True))
    assert_same(outcome, InProcess(VALUES, storm.public, tmp_path / "in-process").round(1))
