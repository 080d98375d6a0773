"""Does the federation help? What each site told of its models, round by round, with the error of each difference. Pure.

All models of a site are scored on the same test samples, so a difference's standard error is told by the site itself
(over_alone, over_local, over_global), and no other can be made of the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fedafd.domain.counted import counted
from fedafd.domain.kinds import ClientKind, ParticipantKind
from fedafd.persistence.models import ClientRow, ParticipationRow

__all__ = ["OTHERS", "VIEWS", "Gain", "Point", "Share", "SiteGain", "site_gains", "summary"]

VIEWS: Mapping[str, str] = {
    "federated": "personalized",
    "local": "own branch",
    "global": "frozen global",
    "alone": "trained alone",
}
OTHERS = ("alone", "local", "global")
"""What the personalized model is compared with; the first that is told decides whether the federation helps."""


@dataclass(frozen=True)
class Gain:
    """The personalized model less another: mean of the differences, and its standard error if it was told."""

    mean: float
    error: float | None

    @property
    def verdict(self) -> str:
        """`better` or `worse` if by more than a standard error, `same` if not, empty where no error was told."""
        if self.error is None:
            return ""
        return "better" if self.mean > self.error else "worse" if -self.mean > self.error else "same"


@dataclass(frozen=True)
class Point:
    """One round of a site: the value of each model, and the personalized one's gain over each other."""

    round_number: int
    values: Mapping[str, float]
    gains: Mapping[str, Gain]


@dataclass(frozen=True)
class Share:
    """What a site counted for in one round's ensemble."""

    round_number: int
    weights: Mapping[str, float]
    """By modality, in percent of all who hold it."""
    left_out: frozenset[str]
    """Modalities in which the ensemble went without it."""
    agreements: Mapping[str, float]
    """By modality, how far what it adds agrees with what the others add; of a region, and of one alone, none."""


@dataclass(frozen=True)
class SiteGain:
    """All rounds of a site."""

    name: str
    kind: ClientKind
    metric: str
    """acc1 in percent, or rsum, 0 to 600."""
    points: Sequence[Point]
    bytes_moved: int
    seconds: float
    """From the begin of each round's collecting to the site's delivery, summed over its rounds."""
    shares: Sequence[Share] = ()
    """What it counted for in the rounds that are known to have weighed it."""

    @property
    def last(self) -> Point | None:
        """The newest round that the site told anything of."""
        return self.points[-1] if self.points else None

    @property
    def over(self) -> str:
        """What the verdict compares with; empty where the site told no comparison."""
        return next((view for view in OTHERS if self.last and view in self.last.gains), "")

    @property
    def verdict(self) -> str:
        """Of the last round: better, worse, same; empty where nothing can be said."""
        return self.last.gains[self.over].verdict if self.last and self.over else ""


def site_gains(
    clients: Sequence[ClientRow],
    parts: Sequence[tuple[ParticipationRow, int]],
    began: Mapping[int, datetime | None] | None = None,
) -> list[SiteGain]:
    """Of each client, from its deliveries with the rounds' numbers, ascending; a region tells nothing of its own.

    `began`: when each round began to collect.
    """
    gains = []
    for client in clients:
        if client.kind == ParticipantKind.REGION.value:
            continue
        mine = [(part, number) for part, number in parts if part.client_id == client.id]
        metric = "rsum" if client.kind == ClientKind.PAIR.value else "acc1"
        points = [_point(number, part.metrics, metric) for part, number in mine if part.metrics]
        moved = sum(part.bytes_up + part.bytes_down for part, _ in mine)
        reported = [point for point in points if point.values]
        seconds = sum(_seconds((began or {}).get(number), part.settled_at) for part, number in mine)
        shares = [_share(number, part.contributions) for part, number in mine if part.contributions]
        gains.append(SiteGain(client.name, ClientKind(client.kind), metric, reported, moved, seconds, shares))
    return gains


def summary(sites: Sequence[SiteGain]) -> str:
    """One sentence on all of them."""
    counts = {verdict: sum(site.verdict == verdict for site in sites) for verdict in ("better", "worse", "same", "")}
    reporting = len(sites) - counts[""]
    if not reporting:
        return "No site has told a comparison yet; a site shares one with share.metrics and a test split of its own"
    words = {"better": "helps", "same": "makes no difference beyond chance to", "worse": "is worse for"}
    parts = [f"{verb} {counts[verdict]}" for verdict, verb in words.items() if counts[verdict]]
    more = f"; {counts['']} told no comparison" if counts[""] else ""
    return f"Of {counted(reporting, 'site that tells', 'sites that tell')} it {', '.join(parts)}{more}"


def _share(number: int, contributions: Mapping[str, Any]) -> Share:
    by_modality = dict(sorted(contributions.items()))
    return Share(
        number,
        weights={name: 100 * contribution["weight"] for name, contribution in by_modality.items()},
        left_out=frozenset(name for name, contribution in by_modality.items() if contribution["left_out"]),
        agreements={
            name: contribution["agreement"]
            for name, contribution in by_modality.items()
            if contribution["agreement"] is not None
        },
    )


def _seconds(began: datetime | None, settled: datetime | None) -> float:
    return max((settled - began).total_seconds(), 0.0) if began and settled else 0.0


def _point(number: int, metrics: Mapping[str, float], metric: str) -> Point:
    values = {view: metrics[f"{view}/{metric}"] for view in VIEWS if metrics.get(f"{view}/{metric}") is not None}
    gains = {
        view: Gain(metrics[f"over_{view}/difference"], metrics.get(f"over_{view}/standard_error"))
        for view in OTHERS
        if metrics.get(f"over_{view}/difference") is not None
    }
    return Point(number, values, gains)
