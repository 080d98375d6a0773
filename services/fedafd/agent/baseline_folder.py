"""What the baseline leaves in the state directory: its newest model, and its scores after each round.

state/baseline/after-<k>.npz            scores after k rounds, of every k
state/baseline/state-<k>.safetensors    the model after the last of them
state/baseline/way/                     how far the next round's training came
baseline.lock                           held by the process that trains it
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedafd.agent.files import disk_full_is_clear, write_atomically
from fedafd.agent.kept_scores import KeptScores
from fedafd.domain.claims import claimed

__all__ = ["BaselineFolder"]

_STATE = re.compile(r"^state-(\d+)\.safetensors$")


class BaselineFolder:
    """Of one state directory. One process writes it, while `locked`; anybody at the site may read it meanwhile."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / "state" / "baseline"
        self.way = self.folder / "way"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raises ConflictError while another process trains the baseline."""
        taken = f"{self._root}: the baseline is being trained by another process; wait for it, or stop the agent"
        with claimed(self._root / "baseline.lock", taken):
            yield

    def done(self) -> int:
        """For how many rounds it has trained."""
        return max(self._states(), default=0)

    def state(self) -> tuple[int, Path | None]:
        """For how many rounds it has trained, and the file of the state after the last; 0 and None before the first."""
        states = self._states()
        return (max(states), states[max(states)]) if states else (0, None)

    def scores(self, rounds: int) -> KeptScores | None:
        """Its scores after `rounds` rounds, as view `alone`; None if it has not trained for that many."""
        return KeptScores.read(self.folder / f"after-{rounds}.npz")

    def keep(self, rounds: int, state: bytes, scores: KeptScores) -> None:
        """Keep the model after `rounds` rounds, in place of the one before. Raises StorageFullError."""
        with disk_full_is_clear(self._root):
            self.folder.mkdir(parents=True, exist_ok=True)
        scores.write(self.folder / f"after-{rounds}.npz")
        write_atomically(self.folder / f"state-{rounds}.safetensors", state, mode=0o600)
        for number, path in self._states().items():
            if number != rounds:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.way, ignore_errors=True)

    def _states(self) -> dict[int, Path]:
        with suppress(OSError):
            return {int(m.group(1)): path for path in self.folder.iterdir() if (m := _STATE.match(path.name))}
        return {}
