"""The rounds for the page: what each model got on the site's own samples, and whether the difference is chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedafd.agent.benefit import MODELS, RoundBenefit, benefits
from fedafd.agent.status import status_of
from fedafd.agent.status_view import legend_of, status_facts
from fedafd.domain.errors import DataError
from fedafd.learning.comparison import PairedDifference

__all__ = ["Gain", "RoundRow", "RoundsView", "rounds_of"]

_GAINS = ("alone", "global")
_FACTS = ("agent", "task", "trained alone", "data", "disk")
"""Of the status: what no other section tells."""


@dataclass(frozen=True)
class Gain:
    """The personalized model less another."""

    text: str
    verdict: str
    """`better` or `worse` if by more than a standard error, else empty."""


@dataclass(frozen=True)
class RoundRow:
    """One delivered round; a cell is empty where there is nothing to tell."""

    number: int
    at: datetime
    values: list[str]
    """In the order of RoundsView.models."""
    gains: list[Gain]
    """Over the baseline, and over the frozen global model."""


@dataclass(frozen=True)
class RoundsView:
    """All rounds, newest first."""

    models: list[str]
    rows: list[RoundRow]
    legend: str
    warnings: list[str]
    """Where the last model is the worse one, in words."""
    facts: list[tuple[str, str]]
    """Where the site stands."""


def rounds_of(root: Path) -> RoundsView:
    """Of a state directory; no rows where no agent has run. Raises DataError for a history that cannot be read."""
    records = benefits(root)
    return RoundsView(
        models=[name.removesuffix(" model").removeprefix("trained ") for name in MODELS.values()],
        rows=[_row(record) for record in reversed(records)],
        legend=legend_of(records[-1]) if records else "",
        warnings=records[-1].warnings() if records else [],
        facts=list(_facts(root)),
    )


def _row(delivered: RoundBenefit) -> RoundRow:
    split = None if delivered.on is None else delivered.splits[delivered.on]
    values, differences = ({}, {}) if split is None else (split.values, split.differences)
    return RoundRow(
        number=delivered.round_number,
        at=datetime.fromisoformat(delivered.delivered_at),
        values=[f"{values[view]:.1f}" if view in values else "" for view in MODELS],
        gains=[_gain(differences.get(view)) for view in _GAINS],
    )


def _gain(difference: PairedDifference | None) -> Gain:
    if difference is None:
        return Gain("", "")
    error = "" if difference.standard_error is None else f" ± {difference.standard_error:.1f}"
    return Gain(
        f"{difference.mean:+.1f}{error}", "better" if difference.is_above else "worse" if difference.is_below else ""
    )


def _facts(root: Path) -> Iterator[tuple[str, str]]:
    if not (root / "state").is_dir():
        return
    try:
        status = status_of(root)
    except DataError:
        return  # a damaged ledger: its own section says so
    yield from ((name, value) for name, value in status_facts(status) if name in _FACTS)
