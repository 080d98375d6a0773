"""What a client counts for in a round's ensemble of one modality: its weight, and what was seen of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Contribution", "contribution_metrics", "contributions_of", "without_contribution"]

_WEIGHT, _SIMILARITY, _AGREEMENT, _LEFT_OUT = "weight", "similarity", "agreement", "left_out"


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """Of one client or region, in one modality."""

    weight: float
    """Mean over the public samples, 0 to 1; 0 for one that is left out."""
    similarity: float | None = None
    """Mean cosine to the global representations, in the space in which they are weighed; None for a region."""
    agreement: float | None = None
    """What it adds to the global representations against what the others add: 0 for nothing in common, at most 1.
    None for a region, and for one alone."""
    left_out: bool = False
    """Not in the ensemble: it sent little but the global representations."""

    def as_json(self) -> dict[str, Any]:
        """By name."""
        return {
            _WEIGHT: self.weight,
            _SIMILARITY: self.similarity,
            _AGREEMENT: self.agreement,
            _LEFT_OUT: self.left_out,
        }


def contribution_metrics(contributions: Mapping[int, Contribution]) -> dict[str, float]:
    """Contributions by cohort position as the metrics of a stage, which are numbers by name."""
    return {
        f"{position}/{name}": float(value)
        for position, contribution in contributions.items()
        for name, value in contribution.as_json().items()
        if value is not None
    }


def contributions_of(metrics: Mapping[str, float]) -> dict[int, Contribution]:
    """From the metrics of a stage, by cohort position."""
    by_position: dict[int, dict[str, float]] = {}
    for name, value in metrics.items():
        position, _, part = name.partition("/")
        if position.isdecimal():  # no other is of a client, whichever version of the distiller has it
            by_position.setdefault(int(position), {})[part] = value
    return {
        position: Contribution(
            weight=parts[_WEIGHT],
            similarity=parts.get(_SIMILARITY),
            agreement=parts.get(_AGREEMENT),
            left_out=bool(parts.get(_LEFT_OUT)),
        )
        for position, parts in sorted(by_position.items())
        if _WEIGHT in parts  # not so where older versions stored one that is no number
    }


def without_contribution(metrics: Mapping[str, float], position: int) -> dict[str, float]:
    """The metrics of a stage, but for those of one position in the cohort."""
    return {name: value for name, value in metrics.items() if name.partition("/")[0] != str(position)}
