"""Before an agent enrols: device, data and saved state can be used, and what changed since the last start is told."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from fedafd.agent.enrolled import need_kind, need_token
from fedafd.agent.findings import Level
from fedafd.agent.own_data import OwnData, changed_since_start, load_own_data, note_start
from fedafd.agent.saved_state import check_saved_state, tell_differences
from fedafd.agent.state import StateDirectory
from fedafd.datasets.report import Progress
from fedafd.domain.config import AgentConfig
from fedafd.domain.kinds import ClientKind
from fedafd.telemetry.logging import get_logger
from fedafd.tracking.trackers import check_trackers

__all__ = ["StartStoppedError", "prepare"]

_SECONDS_BETWEEN_WORDS = 30.0
_log = get_logger(__name__)


class StartStoppedError(Exception):
    """The agent was asked to stop before it had read its data."""


async def prepare(config: AgentConfig, state: StateDirectory, stop: asyncio.Event, *, token: str | None) -> OwnData:
    """The data, after every check that needs nobody else; in a thread, so that `stop` is heard.

    Raises ConfigurationError for an agent that cannot enrol or a device that is not here, DataError for data that
    cannot be used, StateUnusableError for a saved state that does not fit them, StartStoppedError.
    """
    credential = state.load_credential()
    if credential is None:
        need_token(token)
    else:
        need_kind(credential, config.kind, state.root)
    return await asyncio.to_thread(_prepare, config, state, _watching(stop))


def _prepare(config: AgentConfig, state: StateDirectory, progress: Progress) -> OwnData:
    if config.device not in ("auto", "cpu"):
        from fedafd.learning.optimizers import choose_device

        choose_device(config.device)
    check_trackers(config.tracking, "tracking")
    started = time.monotonic()
    own = load_own_data(config, state.root, progress)
    _tell(own, time.monotonic() - started)
    _tell_tokens(config, own)
    _tell_changes(own, state.root)
    tell_differences(check_saved_state(config, own.data.labels, state))
    note_start(state.root, own.fingerprint)
    return own


def _watching(stop: asyncio.Event) -> Progress:
    """Stops the look when asked to, and says from time to time how far it is."""
    said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if stop.is_set():
            raise StartStoppedError
        if time.monotonic() - said > _SECONDS_BETWEEN_WORDS:
            said = time.monotonic()
            _log.info("agent.reading_data", samples=done, total=total)

    return progress


def _tell(own: OwnData, seconds: float) -> None:
    report: Any = own.report
    repeats = report["repeats"]
    _log.info(
        "agent.data_checked",
        **report["counts"],
        classes=len(report["classes"]),
        warnings=len(report["warnings"]),
        repeats_across_splits=sum(repeats["across"].values()),
        dropped_repeats=repeats["dropped"],
        checked="every sample" if own.looked else "files unchanged since the last look",
        seconds=round(seconds, 1),
    )
    if report["warnings"]:
        _log.warning("agent.data_warnings", count=len(report["warnings"]), next="`fedafd agent check` tells them")


def _tell_tokens(config: AgentConfig, own: OwnData) -> None:
    if config.kind is ClientKind.IMAGE or not own.looked:
        return
    from fedafd.agent.check_training import check_tokens

    for finding in check_tokens(config, own.data):
        (_log.info if finding.level is Level.FINE else _log.warning)("agent.words", reason=finding.text)


def _tell_changes(own: OwnData, root: Path) -> None:
    changes = changed_since_start(root, own.fingerprint)
    if changes:
        words = "; ".join(
            f"{change.added} added, {change.removed} removed in {split}" for split, change in changes.items()
        )
        _log.warning("agent.data_changed", reason=f"your data changed since the agent's last start: {words}")
