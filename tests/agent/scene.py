"""An agent and a fake aggregator in one process, for tests that play a scenario."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.agent.fake_aggregator import TOKEN, FakeAggregator

from fedafd.agent.metrics import AgentMetrics
from fedafd.agent.runner import Agent
from fedafd.agent.state import StateDirectory
from fedafd.agent.training import LocalResult, LocalTask, ModelWriter, ProgressCallback
from fedafd.domain.config import parse_agent_config
from fedafd.domain.kinds import Modality
from fedafd.domain.leaving import Activity, ActivityKind

MIB = 1 << 20
_HALF = Activity(ActivityKind.TRAINING, 1, 2)


class CountingTrainer:
    """Returns at once something that depends on the task only; counts how often it was asked."""

    def __init__(self, fails: Exception | None = None, seconds: float = 0.0) -> None:
        self.tasks: list[LocalTask] = []
        self.started = threading.Event()
        self.fails, self.seconds = fails, seconds

    def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
        self.tasks.append(task)
        self.started.set()
        task.spend()
        assert set(task.encoder_bundles) == {Modality.IMAGE}
        assert hashlib.sha256(task.manifest.read_bytes()).hexdigest() == task.public_set_sha256
        end = time.monotonic() + self.seconds
        progress(0.5, _HALF)
        while time.monotonic() < end:
            time.sleep(0.01)
            progress(0.5, _HALF)
        if self.fails is not None:
            raise self.fails
        return LocalResult(
            representations=bytes([task.seed]) * (2 * MIB + 10),
            state=f"state after {task.round_number}".encode(),
            personalized_model=written(b"model") if task.share_model else None,
            weights=b"weights" if task.config.averaging == "weights" else None,
            metrics={"federated/acc1": 50.0},
            num_private_samples=12,
        )


def written(model: bytes) -> ModelWriter:
    """What writes that, whatever the state."""

    def write(state: Path, target: Path) -> None:
        assert state.exists()
        target.write_bytes(model)

    return write


def packed_model(made: LocalResult, folder: Path) -> bytes:
    """The model that a result shares, written in `folder`."""
    assert made.personalized_model is not None
    (folder / "state").write_bytes(made.state)
    made.personalized_model(folder / "state", folder / "shared-model")
    return (folder / "shared-model").read_bytes()


class Scene:
    """A fake aggregator and one agent's directory; agents come and go."""

    def __init__(self, tmp_path: Path) -> None:
        self.state_dir = tmp_path / "site"
        self.server = FakeAggregator()
        self.trainer = CountingTrainer()
        self.share: dict[str, bool] = {}
        self.policy: dict[str, Any] = {}
        self.privacy: dict[str, Any] = {}
        self.kind = "image"
        self.more: dict[str, Any] = {}
        """Of agent.yaml."""

    async def run(self, until: Callable[[], bool], token: str | None = TOKEN, seconds: float = 20.0) -> None:
        """Run an agent until the condition holds, then stop it in good order."""
        config = parse_agent_config(
            {
                "aggregator": self.server.address,
                "kind": self.kind,
                "data": {"adapter": "shapes"},
                "state_dir": str(self.state_dir),
                "share": self.share,
                "policy": self.policy,
                "privacy": self.privacy,
            }
            | self.more
        )
        state, stop = StateDirectory(self.state_dir), asyncio.Event()
        agent = Agent(
            config,
            self.trainer,
            state,
            stop=stop,
            metrics=AgentMetrics(),
            cache_limit_bytes=1 << 30,
            poll_seconds=5.0,
        )
        running = asyncio.ensure_future(agent.run(token))
        deadline = time.monotonic() + seconds
        try:
            while not running.done() and not until():
                assert time.monotonic() < deadline, "the agent did not get there"
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        finally:
            stop.set()
            await asyncio.wait((running,), timeout=10)
        running.result()

    def settled(self) -> bool:
        return bool(self.server.commits or self.server.left) and self.server.task.HasField("idle")


def play(tmp_path: Path, scenario: Callable[[Scene], Awaitable[None]]) -> Scene:
    async def main() -> Scene:
        scene = Scene(tmp_path)
        await scene.server.start()
        try:
            await scenario(scene)
        finally:
            await scene.server.stop()
        return scene

    return asyncio.run(main())
