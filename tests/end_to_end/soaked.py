"""What runs of the soak test found, in a file: the page of the fault matrix says it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Soaked", "record", "recorded"]


@dataclass(frozen=True)
class Soaked:
    """A run whose every round was equal in every bit."""

    day: str
    rounds: int
    seed: int
    grew: Sequence[str]


def record(path: Path, run: Soaked) -> None:
    """Note a run in place of the last one with its seed."""
    runs = {each.seed: each for each in recorded(path)} | {run.seed: run}
    path.write_text(json.dumps([asdict(runs[seed]) for seed in sorted(runs)], indent=1) + "\n", encoding="utf-8")


def recorded(path: Path) -> list[Soaked]:
    """The runs that are noted there; none where there is no such file."""
    return [Soaked(**each) for each in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
