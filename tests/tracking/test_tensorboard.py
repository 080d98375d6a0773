"""Metrics in TensorBoard's event files, read back; a tracker that fails never stops a run."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event
from tests.simulation.test_simulate import TINY

from fedafd.domain.errors import ConfigurationError
from fedafd.simulation.experiment import read_experiment
from fedafd.simulation.run import run_one
from fedafd.tracking.run import TrackedRun
from fedafd.tracking.trackers import Trackers


def points(folder: Path) -> list[tuple[str, int]]:
    """Name and step of every scalar below a folder."""
    found = []
    for path in folder.rglob("events.out.tfevents.*"):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + size])
            found += [(v.tag, event.step) for v in event.summary.value if v.HasField("simple_value")]
            at += 16 + size
    return found


def opened(output: Path, told: list[str], **options: Any) -> Trackers:
    run = TrackedRun(name="iid/fedafd/seed-0", id="1", tags={"strategy": "fedafd"}, output=output)
    return Trackers({"tensorboard": options}, run, told.append)


def test_a_resumed_run_has_each_point_once(tmp_path: Path) -> None:
    told: list[str] = []
    for rounds in (1, 2):
        trackers = opened(tmp_path, told)
        trackers.show({step: {"server/rsum": 1.0} for step in range(1, rounds + 1)})
        trackers.close()
    assert told == []
    assert points(tmp_path) == [("server/rsum", 1), ("server/rsum", 2)]


def test_a_tracker_that_fails_is_told_once_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file, where the folder should be", encoding="utf-8")
    told: list[str] = []
    trackers = opened(tmp_path, told)
    trackers.show({1: {"seconds": 1.0}})
    trackers.show({1: {"seconds": 1.0}, 2: {"seconds": 1.0}})
    trackers.close()
    assert len(told) == 1
    place = tmp_path / "tensorboard/iid/fedafd/seed-0"
    assert told[0] == f"tracker tensorboard: {place}: Not a directory; the run goes on without it"


def test_an_unknown_tracker_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="'tensorbord' is not known; installed: .*tensorboard"):
        read_experiment(None, TINY | {"tracking": {"tensorbord": {}}}, None)


def test_a_run_leaves_its_rounds(tmp_path: Path) -> None:
    values = TINY | {"rounds": 1, "strategies": ["fedafd"], "tracking": {"tensorboard": {"path": "board"}}}
    experiment = read_experiment(None, values, None)
    result = run_one(experiment, experiment.runs()[0], tmp_path, device="cpu")
    found = points(tmp_path / "board/iid/fedafd/seed-0")
    server = result["rounds"][0]["server"]
    assert {(f"server/{name}", 1) for name in server} <= set(found)
    assert len(found) == len(set(found))
