"""The saved state against today's data and agent.yaml, before a round needs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.state import StateDirectory
from fedafd.artifacts.headers import read_meta
from fedafd.domain.config import AgentConfig, DataConfig, usual_task
from fedafd.domain.errors import StateUnusableError
from fedafd.domain.kinds import Modality
from fedafd.domain.state_cases import AFRESH, Answer, Difference
from fedafd.domain.state_fingerprint import StateFingerprint, compare, refuse_mismatch
from fedafd.telemetry.logging import get_logger

__all__ = ["check_saved_state", "fingerprint_of_site", "reset", "tell_differences"]

_WARNED = ("words",)
"""Goes on, but a person should look at it."""
_log = get_logger(__name__)


def fingerprint_of_site(config: AgentConfig, classes: Sequence[str]) -> StateFingerprint:
    """What a state made today would be made for, as far as the site knows it without its federation."""
    kind, data = config.kind, config.data
    return StateFingerprint(
        kind=kind,
        classes=tuple(classes),
        task=config.task or usual_task(kind),
        image_encoder=config.image_encoder if Modality.IMAGE in kind.modalities else None,
        text_encoder=config.text_encoder if Modality.TEXT in kind.modalities else None,
        data=DataConfig(adapter=data.adapter, options=data.options, partition=data.partition),
    )


def check_saved_state(config: AgentConfig, classes: Sequence[str], state: StateDirectory) -> list[Difference]:
    """Where the saved state was made for something else; empty if there is no state.

    Raises StateUnusableError for a state that is damaged or cannot follow.
    """
    current = state.current_state()
    if current is None:
        return []
    try:
        saved = StateFingerprint.of_state(read_meta(current[1]))
    except (ValueError, KeyError, TypeError) as error:
        raise StateUnusableError(
            f"the saved state of round {current[0]} in {state.root} cannot be read ({error}); {AFRESH}"
        ) from None
    differences = compare(saved, fingerprint_of_site(config, classes))
    refuse_mismatch(differences)
    return differences


def tell_differences(differences: Sequence[Difference]) -> None:
    """Say in the site's own log what the state was made for, and what becomes of it."""
    for difference in differences:
        tell = _log.warning if difference.answer is Answer.ADAPT or difference.case in _WARNED else _log.info
        tell("agent.state_differs", part=difference.part, answer=difference.answer.value, reason=difference.message)


def reset(config: Path, state_dir: Path | None) -> str:
    """Set the personalized state of a site aside; returns what was done, in words.

    Raises ConfigurationError for an unusable agent.yaml, ConflictError while an agent or its baseline's training runs.
    """
    from fedafd.agent.main import read_site

    root = state_dir or read_site(config).state_dir
    if not (root / "state").is_dir():
        return f"{root}: no agent has kept anything here; there is nothing to set aside"
    state = StateDirectory(root)
    state.lock()
    try:
        # What trains the baseline at this moment would write into the new state.
        with BaselineFolder(root).locked():
            aside = state.set_state_aside(f"before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    finally:
        state.unlock()
    if aside is None:
        return f"{root}: there is no state yet; the next round starts afresh anyway"
    return f"the state lies in {aside} now; the next round starts afresh"
