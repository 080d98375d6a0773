"""Processes killed in the middle of everything: rounds complete, with the bits of an unfaulted run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.end_to_end.federation import FEDERATION, KINDS, Trial, embedded
from tests.end_to_end.in_process import InProcess, assert_same, pulled
from tests.end_to_end.supervised import LoggedSupervisor
from tests.servers import redis_server

from fedafd.cli.demo_processes import Child, Supervisor
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.process_errors import ControlPlaneError

pytestmark = pytest.mark.timeout(400)

SETTINGS = {"FEDAFD_AGGREGATOR_STAGE_LEASE_SECONDS": "2", "FEDAFD_AGGREGATOR_LEASE_SECONDS": "2"}
DOOMED = "tests.end_to_end.doomed_distiller"
DEADLY = {"prepare", "fold", "merge", "distil", "evaluate", "complete"}


class Storm:
    """A trial whose distillers and Redis may die, and are started again as an orchestrator would."""

    def __init__(self, supervisor: Supervisor, folder: Path, always: str | None = None) -> None:
        self.marks = folder / "marks"
        self.marks.mkdir()
        self._redis_folder = folder / "redis"
        self._redis_folder.mkdir()
        self._redis = ExitStack()
        self.redis_url = self._redis.enter_context(redis_server(self._redis_folder))
        settings = SETTINGS | {"DOOMED_MARKS": str(self.marks)} | ({"DOOMED_ALWAYS": always} if always else {})
        settings["FEDAFD_DISTILLER_CACHE_DIR"] = str(folder / "cache")
        backends = embedded(folder, self.redis_url)
        self.trial = Trial(supervisor, backends, folder, distiller=False, settings=settings)
        self.public = folder / "public-set"
        write_public_set(
            load_public_data("shapes", None, {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5}), self.public
        )
        self.trial.rest.create(FEDERATION)
        self.trial.rest.push_public_set(self.public)
        self.distillers: list[Child] = []
        self.deaths = 0

    def close(self) -> None:
        self.trial.rest.close()
        self._redis.close()

    def start_distillers(self, count: int) -> None:
        self.distillers += [self.trial.services.start_distiller(DOOMED) for _ in range(count)]

    def kill_distillers(self) -> None:
        for child in self.distillers:
            self.trial.kill(child)
        self.distillers.clear()

    def restart_the_dead(self, _: object = None) -> None:
        for child in [child for child in self.distillers if child.process.poll() is not None]:
            self.trial.supervisor.forget(child)
            self.distillers.remove(child)
            self.deaths += 1
            self.start_distillers(1)

    def restart_redis(self) -> None:
        """Stop it and start an empty one at the same address."""
        port = int(self.redis_url.split(":")[2].split("/")[0])
        self._redis.close()
        self._redis.enter_context(redis_server(self._redis_folder, port=port))

    def participation(self, number: int, client: str) -> dict[str, Any]:
        parts = self.trial.rest.round(number)["participations"]
        return next((part for part in parts if part["client"] == client), {})


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with LoggedSupervisor(tmp_path / "logs") as started:
        yield started


def test_whatever_is_killed_the_rounds_complete_bit_identically(supervisor: Supervisor, tmp_path: Path) -> None:
    storm = Storm(supervisor, tmp_path)
    try:
        trial = storm.trial
        trial.invite_all()
        for name in KINDS:
            trial.start_agent(name)
        storm.start_distillers(2)
        trial.until(lambda: all(c["state"] == "enrolled" for c in trial.rest.clients()), "the agents", 120)

        # Round 1: a distiller dies in the middle of each kind of stage, and one between storing and completing.
        trial.rest.start_rounds(1)
        answer = trial.rest.wait_for_round(1, storm.restart_the_dead, seconds=240)
        assert {path.name for path in storm.marks.iterdir()} == DEADLY
        assert storm.deaths >= 5
        outcomes = [pulled(trial, answer, 1)]

        # Round 2: the announced stage is lost with Redis; then Redis and both services go in training.
        storm.kill_distillers()
        trial.rest.start_rounds(1)
        trial.until(lambda: trial.rest.round(2)["state"] == "preparing", "round 2", 120)
        redis.Redis.from_url(storm.redis_url).flushall()
        storm.start_distillers(1)
        trial.until(lambda: storm.participation(2, "pairs").get("state") == "training", "training", 120)
        trial.kill(next(child for child in trial.supervisor.children if child.name == "aggregator"))
        storm.restart_redis()
        trial.services.start_aggregator()
        trial.kill(next(child for child in trial.supervisor.children if child.name == "control-plane"))
        silences = iter((trial.services.start_control_plane,))
        answer = trial.rest.wait_for_round(
            2, storm.restart_the_dead, seconds=240, on_silence=lambda: next(silences, lambda: None)()
        )
        assert next(silences, None) is None
        outcomes.append(pulled(trial, answer, 2))

        kinds = [event["kind"] for event in trial.rest.events()]
        assert kinds.count("model.published") == 2
        assert kinds.count("participation.delivered") == 2 * len(KINDS)
        assert kinds.count("stage.lost") >= 5
    finally:
        storm.close()
    supervisor.stop()

    calm = InProcess(FEDERATION, storm.public, tmp_path / "in-process")
    for number, outcome in enumerate(outcomes, start=1):
        assert_same(outcome, calm.round(number))


def test_a_stage_that_kills_every_distiller_fails_its_round_and_says_so(supervisor: Supervisor, tmp_path: Path) -> None:
    storm = Storm(supervisor, tmp_path, always="prepare")
    try:
        storm.start_distillers(3)
        storm.trial.rest.start_rounds(1)
        with pytest.raises(
            ControlPlaneError, match=r"stage prepare lost its distiller 3 times, last .*: the process ended"
        ):
            storm.trial.rest.wait_for_round(1, lambda _: None, seconds=240)
        assert [child.process.poll() for child in storm.distillers] == [-signal.SIGKILL] * 3
    finally:
        storm.close()
