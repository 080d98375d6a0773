"""The baseline in the agent's background: a child process of its own, so that no round's bits or time depend on it.

On the processor the child runs beside the rounds, with its own threads and what time nobody else wants. On a GPU, whose
memory a round may need, it is ended before a round is trained and goes on after it from its last epoch.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fedafd.agent.baseline import AHEAD, baseline_target
from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.history import History
from fedafd.domain.claims import is_claimed
from fedafd.domain.config import AgentConfig, BaselineMode
from fedafd.telemetry.logging import get_logger

__all__ = ["Background", "own_threads"]

_STOP_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 5.0
_COMMAND = (sys.executable, "-m", "fedafd.agent.baseline_child")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_log = get_logger(__name__)


def own_threads(threads: int | None, cores: int) -> int:
    """The baseline's threads: a quarter of the agent's."""
    return max(1, (threads or cores) // 4)


class Background:
    """Starts the child when there is something to train, and ends it when asked to."""

    def __init__(self, config: AgentConfig, *, trained: Callable[[int], None] = lambda _: None) -> None:
        """`trained` hears for how many rounds the baseline has trained, after each."""
        self._config, self._trained = config, trained
        self._child: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._pauses = 0

    async def wake(self) -> None:
        """Train, if the site wants that, and something is left to train."""
        if self._config.baseline is BaselineMode.OFF or self._pauses or self._watching is not None:
            return
        if await asyncio.to_thread(self._left):
            self._watching = asyncio.ensure_future(self._run())

    @asynccontextmanager
    async def making_way(self) -> AsyncIterator[None]:
        """No child on the device that a round is trained on while it is, if that is no processor."""
        if self._config.baseline is BaselineMode.OFF or await asyncio.to_thread(_on_processor, self._config.device):
            yield
            return
        self._pauses += 1
        try:
            await self.stop()
            yield
        finally:
            self._pauses -= 1
        await self.wake()

    async def stop(self) -> None:
        """End the child; what it trained since its last epoch is lost."""
        watching, self._watching = self._watching, None
        if watching is None:
            return
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.terminate()
        with suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(_STOP_SECONDS):
                await asyncio.shield(watching)
        if not watching.done():
            if self._child is not None:
                with suppress(ProcessLookupError):
                    self._child.kill()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    @property
    def process_id(self) -> int | None:
        """Of the child, while there is one."""
        child = self._child
        return None if child is None or child.returncode is not None else child.pid

    def _left(self) -> bool:
        rounds = History(self._config.state_dir).rounds()
        if rounds and any("alone" in split.views for split in rounds[-1].splits.values()):
            return False  # the round itself trains what would be trained here: docs/adr/0016
        target = baseline_target(self._config.state_dir, ahead=AHEAD)
        return BaselineFolder(self._config.state_dir).done() < target

    async def _run(self) -> None:
        try:
            _log.info("agent.baseline_training", done=BaselineFolder(self._config.state_dir).done())
            while await self._one_child() and await asyncio.to_thread(self._left):
                pass
        finally:
            if self._watching is asyncio.current_task():
                self._watching = None

    async def _one_child(self) -> bool:
        """One child to its end; True if it did all that it was asked for."""
        if is_claimed(self._config.state_dir / "baseline.lock"):
            # `fedafd agent baseline` at work, or a child that has not yet heard of its agent's end.
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
            return True
        threads = own_threads(self._config.threads, os.cpu_count() or 1)
        self._child = child = await asyncio.create_subprocess_exec(
            *_COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with suppress(ConnectionError):
                child.stdin.write(
                    self._config.model_copy(update={"threads": threads}).model_dump_json().encode() + b"\n"
                )
                await child.stdin.drain()
            async for line in child.stdout:
                self._hear(line)
            code = await child.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                child.kill()
            raise
        finally:
            child.stdin.close()
        if code and self._watching is not None:
            _log.warning("agent.baseline_stopped", exit_code=code, next="the next delivered round starts it again")
        return code == 0

    def _hear(self, line: bytes) -> None:
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:
            return
        if "reason" in message:
            _log.error("agent.baseline_failed", reason=message["reason"], code=message.get("code"))
        elif "done" in message:
            _log.info("agent.baseline_trained", rounds=message["done"], total=message["target"])
            self._trained(int(message["done"]))


def _on_processor(device: str) -> bool:
    from fedafd.learning.optimizers import choose_device

    return choose_device(device).type == "cpu"
