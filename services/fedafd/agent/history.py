"""The delivered rounds of one site, with what each round's model got on the site's own samples.

state/history/round-<n>.npz     one delivered round (see kept_scores.py); goes aside with the state
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedafd.agent.kept_scores import KeptScores, SplitScores
from fedafd.agent.state import SCORES_FILE, StateDirectory
from fedafd.domain.errors import DataError

__all__ = ["DeliveredRound", "History"]

_FILE = re.compile(r"^round-(\d+)\.npz$")


@dataclass(frozen=True, kw_only=True)
class DeliveredRound:
    """One round that the site delivered."""

    number: int
    participation: int
    """Rounds that the site's model has trained, this one included."""
    delivered_at: str
    """ISO 8601, UTC."""
    splits: dict[str, SplitScores]
    loss: float | None = None
    """Mean of its last local epoch; None where an older agent trained it."""


class History:
    """Of one state directory. The agent writes it; anybody at the site may read it meanwhile."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "state" / "history"

    def rounds(self) -> list[DeliveredRound]:
        """All of them, first to last."""
        return list(self._rounds())

    def follow(self, state: StateDirectory) -> bool:
        """Note the last delivered round, if it is not noted yet; True if it was not. Raises StorageFullError."""
        current = state.current_folder()
        if current is None or self._path(current[0]).exists():
            return False
        number, folder = current
        scores = KeptScores.read(folder / SCORES_FILE)
        earlier = max((record.participation for record in self._rounds() if record.number < number), default=None)
        if earlier is None:
            # A state of an agent that kept no history has trained for `number` rounds at most.
            participation = 1 if scores is not None else number
        else:
            participation = earlier + 1
        try:
            # Written last before the receipt came.
            when = datetime.fromtimestamp((folder / "result.json").stat().st_mtime, UTC)
        except OSError:
            when = datetime.now(UTC)
        about = {"round": number, "participation": participation, "delivered_at": when.isoformat(timespec="seconds")}
        about = (dict(scores.about) if scores is not None else {}) | about
        KeptScores({} if scores is None else scores.splits, about).write(self._path(number))
        return True

    def _rounds(self) -> Iterator[DeliveredRound]:
        try:
            names = sorted(int(m.group(1)) for file in self._folder.iterdir() if (m := _FILE.match(file.name)))
        except OSError:
            return
        for number in names:
            kept = KeptScores.read(self._path(number))
            if kept is not None:
                yield _read(number, kept)

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number}.npz"


def _read(number: int, kept: KeptScores) -> DeliveredRound:
    try:
        return DeliveredRound(
            number=number,
            participation=int(kept.about["participation"]),
            delivered_at=str(kept.about["delivered_at"]),
            splits=dict(kept.splits),
            loss=None if kept.about.get("loss") is None else float(kept.about["loss"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the history's round {number} cannot be read: {error}; remove its file") from None
