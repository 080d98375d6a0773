"""Processes killed in the middle of everything: rounds complete, with the bits of an unfaulted run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from tests.end_to_end.federation import FEDERATION, KINDS, TINY_IMAGE
from tests.end_to_end.in_process import InProcess, assert_same, pulled
from tests.end_to_end.storm import Storm
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd.domain.process_errors import ControlPlaneError
from fedafd.local.supervisor import Supervisor

pytestmark = pytest.mark.timeout(400)

LORA = {"trainable": "lora", "lora": {"rank": 2, "alpha": 4, "dropout": 0.1}}
HEAD = {"trainable": "head"}
BERT = {
    "architecture": "bert",
    "max_tokens": 16,
    "options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
}
VALUES = FEDERATION | {
    "image_encoder": TINY_IMAGE | HEAD,
    "text_encoder": BERT | LORA,
    "client": FEDERATION["client"] | {"local_epochs": 4},
}
"""A global model of both; beside them a site of each, and one that trains all."""
SITES = {"images": {"image_encoder": TINY_IMAGE | LORA}, "pairs": {"image_encoder": TINY_IMAGE | HEAD}}
DEADLY = {"prepare", "fold", "weigh", "merge", "distil", "evaluate", "complete", "given"}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with LoggedSupervisor(tmp_path / "logs") as started:
        yield started


def test_whatever_is_killed_the_rounds_complete_bit_identically(supervisor: Supervisor, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra `lora` is not installed")
    storm = Storm(supervisor, tmp_path, values=VALUES, sites=SITES)
    try:
        trial = storm.trial
        trial.invite_all()
        agents = {name: trial.start_agent(name) for name in KINDS}
        storm.start_distillers(2)
        trial.until(lambda: all(c["state"] == "enrolled" for c in trial.rest.clients()), "the agents", 120)

        # Round 1: a distiller dies in the middle of each kind of stage, one between storing and completing,
        # and one that has just been given the next stage.
        trial.rest.start_rounds(1)
        answer = trial.rest.wait_for_round(1, storm.restart_the_dead, seconds=240)
        assert {path.name for path in storm.marks.iterdir()} == DEADLY
        assert storm.deaths >= 5
        outcomes = [pulled(trial, answer, 1)]

        # Round 2: the announced stage is lost with Redis; then Redis, both services and two agents go in training.
        storm.kill_distillers()
        trial.rest.start_rounds(1)
        trial.until(lambda: trial.rest.round(2)["state"] == "preparing", "round 2", 120)
        redis.Redis.from_url(storm.redis_url).flushall()
        storm.start_distillers(1)
        # What a fast machine trains between two writes of its progress is delivered when it is first heard of.
        at_work = ("training", "delivered")
        trial.until(lambda: storm.participation(2, "pairs").get("state") in at_work, "training", 120)
        for name in ("images", "pairs"):
            trial.kill(agents[name])
        trial.kill(next(child for child in trial.supervisor.children if child.name == "aggregator"))
        storm.restart_redis()
        for name in ("images", "pairs"):
            trial.start_agent(name)
        trial.services.start_aggregator()
        trial.kill(next(child for child in trial.supervisor.children if child.name == "control-plane"))
        silences = [trial.services.start_control_plane]

        def on_silence() -> None:
            while silences:
                silences.pop()()

        answer = trial.rest.wait_for_round(2, storm.restart_the_dead, seconds=240, on_silence=on_silence)
        assert not silences
        outcomes.append(pulled(trial, answer, 2))

        kinds = [event["kind"] for event in trial.rest.events()]
        assert kinds.count("model.published") == 2
        assert kinds.count("participation.delivered") == 2 * len(KINDS)
        assert kinds.count("stage.lost") >= 5
    finally:
        storm.close()
    supervisor.stop()

    calm = InProcess(VALUES, storm.public, tmp_path / "in-process", SITES)
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
