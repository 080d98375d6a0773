"""Draws the cohort of a round: who was invited least often comes first, and the quorum can be reached.

A draw follows from its arguments alone: whoever coordinates draws the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedafd.domain.config import CohortConfig, QuorumConfig
from fedafd.domain.kinds import Modality, ParticipantKind
from fedafd.domain.seeds import derive_seed

__all__ = ["Candidate", "draw_cohort", "short_of_quorum"]


@dataclass(frozen=True)
class Candidate:
    """A site that may be invited."""

    name: str
    kind: ParticipantKind
    num_invited: int
    """How many rounds of the federation it was invited to before."""
    clients: int = 1
    """The clients that it stands for: one, or the most that a region may have, of any modality."""

    def holds(self, modality: Modality) -> bool:
        """Whether what it delivers may have that modality."""
        return self.kind is ParticipantKind.REGION or modality in self.kind.modalities


def draw_cohort(
    cohort: CohortConfig, quorum: QuorumConfig, seed: int, number: int, online: Sequence[Candidate]
) -> list[Candidate]:
    """The sites of round `number`, by name; `seed` is the federation's.

    More than the configuration says where the quorum needs more.
    """
    seed = seed if cohort.seed is None else cohort.seed
    line = sorted(online, key=lambda site: (site.num_invited, derive_seed(seed, number, site.name, "cohort")))
    chosen: dict[str, Candidate] = {}
    for modality, needed in _needs(quorum):
        holders = [site for site in line if site.holds(modality)]
        _fill(chosen, holders, needed)
    groups = [[site for site in line if site.kind is kind] for kind in ParticipantKind] if cohort.per_kind else [line]
    for group in groups:
        _fill(chosen, group, cohort.of(len(group)))
    _fill(chosen, line, quorum.min_clients)
    return sorted(chosen.values(), key=lambda site: site.name)


def short_of_quorum(quorum: QuorumConfig, sites: Sequence[Candidate]) -> str:
    """What of the quorum these sites cannot reach even if all of them deliver; empty if they can."""
    counts = [("", sum(site.clients for site in sites), quorum.min_clients)]
    for modality, needed in _needs(quorum):
        holders = sum(site.clients for site in sites if site.holds(modality))
        counts.append((f" with {modality.value} representations", holders, needed))
    return ", ".join(f"{have} of {needed} sites{what}" for what, have, needed in counts if have < needed)


def _needs(quorum: QuorumConfig) -> Iterator[tuple[Modality, int]]:
    yield Modality.IMAGE, quorum.min_image_clients
    yield Modality.TEXT, quorum.min_text_clients


def _fill(chosen: dict[str, Candidate], line: Sequence[Candidate], count: int) -> None:
    """Choose from the front of the line until `count` of it are chosen."""
    missing = count - sum(site.name in chosen for site in line)
    waiting = [site for site in line if site.name not in chosen]
    chosen |= {site.name: site for site in waiting[: max(missing, 0)]}
