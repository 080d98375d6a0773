"""Training a site's baseline: the same model alone, for as many rounds as its federated one has trained.

It needs nobody: the federation's configuration and the words that the text encoder reads are kept from the last
delivered round. Killed at any point it goes on from its last epoch, to the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.history import History
from fedafd.agent.kept_scores import KeptScores
from fedafd.agent.own_data import OwnData, load_own_data
from fedafd.agent.policy import as_taken
from fedafd.agent.saved_state import fingerprint_of_site
from fedafd.agent.state import MODEL_SOURCE_FILE, STATE_FILE, StateDirectory
from fedafd.datasets import ClientData
from fedafd.datasets.pixels import keep_decoded
from fedafd.domain.config import AgentConfig, FederationConfig
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.leaving import Activity

__all__ = ["AHEAD", "BaselineTask", "advance", "baseline_target", "read_task"]

AHEAD = 1
"""In the background the baseline is a round ahead, so that it is there when the next round is trained."""
Done = Callable[[int, int], None]
"""Hears for how many rounds the baseline has trained, and for how many it will."""


@dataclass(frozen=True, kw_only=True)
class BaselineTask:
    """What the baseline is trained by, as the last delivered round left it."""

    federation: FederationConfig
    client: str
    tokenizer: str | None
    """Of the site's own text encoder."""


def baseline_target(root: Path, *, ahead: int = 0) -> int:
    """For how many rounds the federated model has trained, and `ahead` more; 0 before the first delivered round."""
    return max((participated.participation + ahead for participated in History(root).rounds()), default=0)


def read_task(root: Path) -> BaselineTask:
    """Raises DataError before the first delivered round, ConfigurationError for a site that is not enrolled."""
    from fedafd.learning.checkpoint import Checkpoint
    from fedafd.learning.personalized_export import Recipe

    state = StateDirectory(root)
    credential, current = state.load_credential(), state.current_folder()
    if credential is None:
        raise ConfigurationError(f"{root}: this site is not enrolled; the baseline is that of a federation")
    if current is None:
        raise DataError(f"{root}: no round is delivered yet; the baseline trains for as many rounds as the agent did")
    try:
        source: dict[str, Any] = json.loads((current[1] / MODEL_SOURCE_FILE).read_bytes())
        recipe = Recipe.from_json(source["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{current[1]}: was left by an older agent; the baseline can train after the next round"
        ) from None
    tokenizer = Checkpoint.mapped(current[1] / STATE_FILE).meta.get("tokenizer")
    return BaselineTask(federation=recipe.config, client=credential.client_name, tokenizer=tokenizer)


def advance(
    config: AgentConfig,
    *,
    ahead: int = 0,
    done: Done = lambda _, __: None,
    progress: Callable[[int, float, Activity], None] = lambda _, __, ___: None,
) -> int:
    """Train the baseline for as many rounds as the federated model has, and `ahead` more; returns how many those are.

    Raises ConflictError while another process trains it, PolicyRefusedError, and what read_task, loading and training
    raise.
    """
    folder = BaselineFolder(config.state_dir)
    with folder.locked():
        own: OwnData | None = None
        while (number := folder.done() + 1) <= (target := baseline_target(config.state_dir, ahead=ahead)):
            task = read_task(config.state_dir)
            task = replace(task, federation=as_taken(config, task.federation))
            if own is None:
                own = load_own_data(config, config.state_dir)
                decoded = keep_decoded(own.data)
            _train(config, task, folder, own, decoded, number, progress)
            done(number, target)
        return folder.done()


def _train(
    config: AgentConfig,
    task: BaselineTask,
    folder: BaselineFolder,
    own: OwnData,
    decoded: ClientData,
    number: int,
    progress: Callable[[int, float, Activity], None],
) -> None:
    from fedafd.learning.baseline import train_baseline
    from fedafd.learning.feature_cache import keep_features
    from fedafd.learning.waypoints import Waypoints

    keep_features(config.state_dir / "features")
    _, path = folder.state()
    state = None if path is None else path.read_bytes()
    trained = train_baseline(
        config=task.federation,
        kind=config.kind,
        image_encoder=config.image_encoder,
        text_encoder=config.text_encoder,
        data=decoded,
        client=task.client,
        round_number=number,
        state=state,
        tokenizer=task.tokenizer,
        device=config.device,
        progress=lambda share, activity: progress(number, share, activity),
        # After each epoch: what is lost is less than one.
        waypoints=Waypoints(folder.way / _way(task, state, number), every_seconds=0),
        fingerprint=fingerprint_of_site(config, own.data.labels),
    )
    views = {name: {"alone": evaluation} for name, evaluation in trained.evaluations.items()}
    folder.keep(number, trained.state, KeptScores.of(own.data, views, own.fingerprint, rounds=number))


def _way(task: BaselineTask, state: bytes | None, number: int) -> str:
    """Name of the folder of this very training's waypoints."""
    before = "" if state is None else sha256_of(state)
    parts = [task.federation.canonical_json(), task.client, task.tokenizer, before, number]
    return sha256_of(json.dumps(parts).encode())[:16]
