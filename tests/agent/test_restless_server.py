"""A server that answers each question for the task at once, and each time with another answer."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.agent.fake_aggregator import FakeAggregator
from tests.agent.scene import Scene, play

from fedafd.agent.connection import _TASKS_AT_ONCE
from fedafd.proto.v1 import aggregator_pb2 as pb


class RestlessAggregator(FakeAggregator):
    def __init__(self, changing: bool) -> None:
        super().__init__()
        self.changing = changing
        self.asked_at: list[float] = []

    async def FetchTask(self, request: pb.FetchTaskRequest, context: Any) -> pb.FetchTaskResponse:
        self.asked_at.append(time.monotonic())
        revision = len(self.asked_at) if self.changing else 1
        return pb.FetchTaskResponse(revision=revision, idle=pb.IdleTask(reason="again"))


def asked(tmp_path: Path, *, changing: bool) -> list[float]:
    server = RestlessAggregator(changing)

    async def scenario(scene: Scene) -> None:
        await scene.server.stop()
        scene.server = server
        await server.start()
        await scene.run(lambda: len(server.asked_at) > _TASKS_AT_ONCE + 2)

    play(tmp_path, scenario)
    return server.asked_at


def test_is_asked_once_a_second_in_the_end(tmp_path: Path) -> None:
    for changing in (True, False):
        at = asked(tmp_path / str(changing), changing=changing)
        waits = [after - before for before, after in pairwise(at)]
        assert waits[_TASKS_AT_ONCE + 1] > 0.9, changing
