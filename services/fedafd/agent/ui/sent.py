"""The ledger for the page: what left, newest first, and how much of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedafd.agent.ledger import SentEntry, read_sent
from fedafd.domain.errors import DataError

__all__ = ["PAGE_ENTRIES", "Sent", "Total", "sent_of"]

PAGE_ENTRIES = 100


@dataclass(frozen=True)
class Total:
    """All of one kind."""

    what: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Sent:
    """The whole ledger, as far as it can be read."""

    entries: list[SentEntry]
    """Newest first."""
    totals: list[Total]
    """Most bytes first."""
    problem: str
    """Why the rest cannot be read; empty if there is none."""

    @property
    def total(self) -> Total:
        """Of everything."""
        return Total("all", sum(total.count for total in self.totals), sum(total.bytes for total in self.totals))

    @property
    def pages(self) -> int:
        """How many pages of entries there are; at least one."""
        return max(1, -(-len(self.entries) // PAGE_ENTRIES))

    def page(self, number: int) -> list[SentEntry]:
        """The entries of one page, counted from 1."""
        return self.entries[(number - 1) * PAGE_ENTRIES : number * PAGE_ENTRIES]


def sent_of(state_dir: Path) -> Sent:
    """What has left the site by the agent's own record; nothing where no agent has run."""
    entries: list[SentEntry] = []
    problem = ""
    if state_dir.is_dir():
        try:
            entries.extend(read_sent(state_dir))  # what stands before a damaged line stays in the list
        except (DataError, OSError) as error:
            problem = str(error)
    kinds: dict[str, list[int]] = {}
    for entry in entries:
        kinds.setdefault(entry.what, []).append(entry.bytes)
    totals = sorted(
        (Total(what, len(sizes), sum(sizes)) for what, sizes in kinds.items()), key=lambda t: (-t.bytes, t.what)
    )
    return Sent(entries[::-1], totals, problem)
