"""Tasks that no honest server sends: the site leaves the round with a code that says why, and does the next one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.agent.scene import Scene, play

from fedafd.domain.leaving import LeaveReason
from fedafd.proto.v1 import aggregator_pb2 as pb

HOSTILE: dict[str, tuple[Callable[[pb.TrainTask], object], LeaveReason]] = {
    "nested configuration": (
        lambda task: setattr(task, "federation_config_json", "[" * 100_000),
        LeaveReason.CONFIGURATION_UNSUITABLE,
    ),
    "nested objects": (
        lambda task: setattr(task, "federation_config_json", '{"server":' * 50_000),
        LeaveReason.CONFIGURATION_UNSUITABLE,
    ),
    "configuration of megabytes": (
        lambda task: setattr(task, "federation_config_json", json.dumps({f"key-{n}": n for n in range(150_000)})),
        LeaveReason.CONFIGURATION_UNSUITABLE,
    ),
    "number of 5,000 digits": (
        lambda task: setattr(task, "federation_config_json", '{"name": "f", "embedding_dim": ' + "9" * 5000 + "}"),
        LeaveReason.CONFIGURATION_UNSUITABLE,
    ),
    "no public set": (lambda task: task.ClearField("public_set"), LeaveReason.TASK_NOT_UNDERSTOOD),
    "the manifest of another public set": (
        lambda task: setattr(task, "public_set_sha256", "0" * 64),
        LeaveReason.TASK_NOT_UNDERSTOOD,
    ),
    "no encoder": (lambda task: task.ClearField("encoder_bundles"), LeaveReason.TASK_NOT_UNDERSTOOD),
    "two encoders of images": (
        lambda task: task.encoder_bundles.add(sha256="0" * 64, size_bytes=5, purpose="encoder-bundle/image"),
        LeaveReason.TASK_NOT_UNDERSTOOD,
    ),
    "round 0": (lambda task: task.ClearField("round_number"), LeaveReason.TASK_NOT_UNDERSTOOD),
    "length below 0": (
        lambda task: setattr(task.encoder_bundles[0], "size_bytes", -5),
        LeaveReason.TASK_NOT_UNDERSTOOD,
    ),
    "a shard of all bytes there are": (
        lambda task: setattr(task.public_set[1], "size_bytes", (1 << 63) - 1),
        LeaveReason.DISK_FULL,
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_task_that_makes_no_sense_is_left_in_words_and_the_next_is_done(tmp_path: Path, what: str) -> None:
    change, reason = HOSTILE[what]

    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        change(scene.server.task.train)
        await scene.run(lambda: bool(scene.server.left))
        assert (scene.server.left, scene.trainer.tasks) == ([reason], [])
        scene.server.assign(2)
        await scene.run(lambda: bool(scene.server.commits), token=None)

    with capture_logs():  # else a trace with megabytes of locals is drawn, which takes minutes
        scene = play(tmp_path, scenario)
    assert [task.round_number for task in scene.trainer.tasks] == [2]


@pytest.mark.parametrize("policy", [{}, {"approve": "public-set"}])
def test_a_manifest_of_megabytes_is_left_before_it_comes(tmp_path: Path, policy: dict[str, str]) -> None:
    """It is parsed in memory, and was fetched for a person to be told of it before the disk's room was looked at."""

    async def scenario(scene: Scene) -> None:
        scene.policy = policy
        scene.server.assign(public_set=b" " * (17 << 20))
        await scene.run(lambda: bool(scene.server.left))

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.TASK_NOT_UNDERSTOOD]
    assert not scene.server.downloads and not scene.trainer.tasks


def test_what_a_task_names_twenty_thousand_times_is_fetched_and_read_once(tmp_path: Path) -> None:
    """Each mention of a kept artifact read and hashed all of it."""

    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        task = scene.server.task.train
        task.public_set.extend([task.public_set[1]] * 20_000)
        task.encoder_bundles.extend([task.encoder_bundles[0]] * 5_000)
        await scene.run(lambda: bool(scene.server.commits), seconds=15)

    scene = play(tmp_path, scenario)
    assert len(scene.server.downloads) == 4
    assert len(scene.server.progress) < 100


def test_a_deadline_that_no_calendar_has_does_not_end_the_agent(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.server.task.train.deadline.seconds = 1 << 62
        scene.server.task.other_agent_refused_at.seconds = 1 << 62
        await scene.run(lambda: bool(scene.server.commits))

    assert len(play(tmp_path, scenario).trainer.tasks) == 1
