"""What the agent hands to local training and gets back, and training in a thread that can be watched and stopped."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedafd.domain.config import DpConfig, FederationConfig
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import Modality
from fedafd.domain.leaving import Activity
from fedafd.domain.state_cases import Difference

__all__ = [
    "LocalResult",
    "LocalTask",
    "ModelWriter",
    "ProgressCallback",
    "Trainer",
    "TrainingCancelledError",
    "WorkCount",
    "train_watched",
]

ProgressCallback = Callable[[float, Activity], None]
"""Hears the done share, 0 to 1, and what is being done; raises TrainingCancelledError to stop the training."""
ModelWriter = Callable[[Path, Path], None]
"""Writes the packed model of a state, which lies in the first file, into the second. Raises OSError, DataError."""


def _nothing() -> None:
    """Costs nothing."""


class WorkCount:
    """How often this process had got further when it told so. It grows only as work goes on.

    Not the batches themselves: their number would tell how many samples a site has. Downloads and uploads do not count
    here: the aggregator counts their bytes.
    """

    def __init__(self) -> None:
        self.done = 1
        """From 1, as 0 says that nobody counts."""

    def one_more(self) -> None:
        """Work went on since the last time."""
        self.done += 1


class TrainingCancelledError(Exception):
    """Training was asked to stop; its work is discarded."""


@dataclass(frozen=True, kw_only=True)
class LocalTask:
    """One participation with everything it needs on this machine's disk."""

    round_id: str
    round_number: int
    seed: int
    config: FederationConfig
    public_set_sha256: str
    manifest: Path
    shards: Sequence[Path]
    """In the manifest's order."""
    global_representations: Path
    encoder_bundles: Mapping[Modality, Path]
    averages: Mapping[str, Path] = field(default_factory=dict)
    """Averaged weights by group, of the groups of this client's kind."""
    previous_state: bytes | None
    """The client's personalized state; None before its first round."""
    share_model: bool
    """True if the personalized model goes to the federation."""
    representation_noise: float = 0.0
    """Length of the noise on each representation that leaves."""
    dp: DpConfig | None = None
    """Train by DP-SGD; None: as usual."""
    spend: Callable[[], None] = field(default=_nothing, compare=False)
    """Called before the first step of DP-SGD: writes its cost down, or raises PolicyRefusedError."""

    def key(self) -> str:
        """Identifies the task completely: equal keys mean equal results, bit for bit, but for noise and DP-SGD."""
        parts = [
            self.round_id,
            self.round_number,
            self.seed,
            self.config.canonical_json(),
            self.public_set_sha256,
            self.global_representations.name,
            sorted((modality.value, path.name) for modality, path in self.encoder_bundles.items()),
            sorted((group, path.name) for group, path in self.averages.items()),
            None if self.previous_state is None else sha256_of(self.previous_state),
            self.share_model,
            *([self.representation_noise] if self.representation_noise else []),
            *([self.dp.model_dump(mode="json", exclude={"epsilon", "delta"})] if self.dp is not None else []),
        ]
        return sha256_of(json.dumps(parts).encode())


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """What a participation made."""

    representations: bytes
    """safetensors, as the wire wants them."""
    state: bytes
    """The personalized state that the next round goes on from; safetensors; stays here."""
    personalized_model: ModelWriter | None
    """Writes the packed model folder; None unless the task asks for it."""
    model_recipe: Mapping[str, Any] | None = None
    """What the site's own model folder is made of beside the state and the bundles, as JSON; stays here."""
    weights: bytes | None = None
    """For federations that average them."""
    scores: bytes | None = None
    """KeptScores of the site's own samples; they stay here."""
    metrics: dict[str, float]
    num_private_samples: int
    differences: tuple[Difference, ...] = ()
    """Parts of what the earlier state was made for that are others today; they may name classes and stay here."""


class Trainer(Protocol):
    """One site's training. The real one is fedafd.agent.site.Site; tests bring a quick one."""

    def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
        """Do the client's part of a round; blocks. Deterministic in (task, private data, agent.yaml)."""


async def train_watched(
    trainer: Trainer,
    task: LocalTask,
    *,
    stop: asyncio.Event,
    report: Callable[[float, Activity], Awaitable[bool]],
    work: WorkCount | None = None,
    check: Callable[[], None] = _nothing,
    interval_seconds: float = 1.0,
) -> LocalResult:
    """Train in a thread; tell `report` about steps, at most once per interval; stop when it answers False.

    Steps are reported, not mere life: a training that hangs goes silent and is found out by the idle timeout. `work`
    counts the reports. `check` is called before the first step and once per interval, also while `report` waits for an
    answer: what it raises stops the training.
    Raises TrainingCancelledError when the round closed or `stop` was set before the last step, and what `check` raises.
    """
    check()
    cancelled = threading.Event()
    counted = WorkCount() if work is None else work
    latest: list[tuple[float, Activity]] = []

    def progress(fraction: float, activity: Activity) -> None:
        latest[:] = [(fraction, activity)]
        if cancelled.is_set():
            raise TrainingCancelledError

    async def watch() -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_seconds):
                    await stop.wait()
            if latest and not stop.is_set():
                counted.one_more()
                if not await report(*latest.pop()):
                    return

    async def limit() -> None:
        while True:
            await asyncio.sleep(interval_seconds)
            check()

    def train() -> LocalResult:
        try:
            return trainer.train(task, progress)
        except StopIteration as error:
            # A future takes every exception but this one: it would wait for ever.
            raise RuntimeError("the training raised StopIteration") from error
        except Exception:
            raise
        except BaseException as error:
            # A panic of a library's Rust code is no Exception, and would end the agent.
            raise RuntimeError(f"the training broke down: {type(error).__name__}: {error}") from error

    training = asyncio.ensure_future(asyncio.to_thread(train))
    watchers = [asyncio.ensure_future(watcher) for watcher in (limit(), watch())]
    try:
        await asyncio.wait((training, *watchers), return_when=asyncio.FIRST_COMPLETED)
        if not training.done():
            ended = [watcher for watcher in watchers if watcher.done()]
            cancelled.set()
            await asyncio.wait((training,))
            training.exception()  # looked at, so that asyncio does not complain if the next line raises
            for watcher in ended:
                watcher.result()
        return training.result()
    finally:
        cancelled.set()
        for watcher in watchers:
            watcher.cancel()
