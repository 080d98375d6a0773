"""The rounds for the page: what each model reached on the site's own samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedafd.domain.kinds import ClientKind

__all__ = ["COLUMNS", "Round", "metric_name", "rounds_of"]

COLUMNS = {
    "alone": "trained alone",
    "local": "own branch",
    "global": "frozen global",
    "federated": "personalized",
}
"""By the prefix of their metrics, in the order of the page."""
_FOLDER = re.compile(r"^round-(\d+)$")


@dataclass(frozen=True)
class Round:
    """One delivered round."""

    number: int
    at: datetime
    figures: Mapping[str, float]
    """By column, of those that are known."""

    @property
    def best(self) -> str:
        """The column with the highest figure; empty where fewer than two are known."""
        return max(self.figures, key=lambda name: self.figures[name]) if len(self.figures) > 1 else ""


def metric_name(kind: ClientKind) -> str:
    """What the figures are."""
    return "rsum" if kind is ClientKind.PAIR else "acc1"


def rounds_of(state_dir: Path, kind: ClientKind) -> list[Round]:
    """The delivered rounds that the state still holds, newest first."""
    return sorted(_rounds(state_dir, metric_name(kind)), key=lambda each: -each.number)


def _rounds(state_dir: Path, metric: str) -> Iterator[Round]:
    for path in (state_dir / "state").glob("round-*/result.json"):
        named = _FOLDER.match(path.parent.name)
        try:
            metrics, at = json.loads(path.read_bytes())["metrics"], datetime.fromtimestamp(path.stat().st_mtime, UTC)
            known = {name: float(metrics[f"{name}/{metric}"]) for name in COLUMNS if f"{name}/{metric}" in metrics}
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if named:
            yield Round(int(named.group(1)), at, known)
