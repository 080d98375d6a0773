"""Tracker `wandb`: files of Weights & Biases below `path`, as its offline mode writes them; nothing is sent.

`wandb sync` sends them to wherever its user is logged in. What the library would write beside metrics, tags and
versions - the machine's name, the user, the command, packages, the repository - is turned off.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedafd.domain.errors import ConfigurationError
from fedafd.domain.hashing import sha256_of
from fedafd.tracking.run import TrackedRun, check_options

__all__ = ["WandB"]

_ROUND = "round"


class WandB:
    """The files of one run. What an earlier start of the run left there is replaced, so that no point is twice."""

    def __init__(self, run: TrackedRun, options: Mapping[str, Any]) -> None:
        """Raises ConfigurationError for unknown options or a missing library, and what the library raises."""
        check_options("wandb", options, {"path", "project"})
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        try:
            import wandb
        except ImportError:
            raise ConfigurationError("needs Weights & Biases: pip install 'fedafd[wandb]'") from None
        folder = run.output / Path(options.get("path", "."))
        folder.mkdir(parents=True, exist_ok=True)
        run_id = sha256_of(run.id.encode())[:16]
        for earlier in folder.glob(f"wandb/offline-run-*-{run_id}"):
            shutil.rmtree(earlier)
        settings = wandb.Settings(
            mode="offline",
            reinit="create_new",  # several runs of one process, side by side
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            host="-",
        )
        project = options.get("project", "fedafd")
        started = wandb.init(
            project=project, name=run.name, id=run_id, dir=str(folder), config=dict(run.tags), settings=settings
        )
        started.define_metric(_ROUND)
        started.define_metric("*", step_metric=_ROUND)
        self._run = started

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A row of metrics that names its round: rows of a round that come later are points of that round, too."""
        self._run.log({_ROUND: step, **metrics})

    def close(self) -> None:
        """End the run, and the process that writes its files."""
        self._run.finish()
