"""What a run costs beside its quality: core and GPU seconds, and the bytes of each site up and down.

Bytes are those that the services would move: representations as the wire has them, and of a global encoder all at
first contact, afterwards the blocks that changed (fedafd.artifacts.blocks).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from fedafd.artifacts.blocks import block_digests, block_length, changed_spans

__all__ = ["COSTS", "Meter", "Traffic", "bytes_to_fetch", "cost_of"]

COSTS = ("core seconds", "GPU seconds", "MB up", "MB down, first", "MB down, later")
"""Of a run, and of a site in a round, in the order of the table."""
_MB = 1e6


class Traffic(NamedTuple):
    """Bytes of one site in one round."""

    up: int
    down: int


class Meter:
    """Runs from its making on. CPU time is this process's, with its threads, on all cores together."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        self._began, self._used = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        """Seconds so far: by the clock, of cores and, where a GPU works, of it; it is held all the time."""
        seconds = time.monotonic() - self._began
        read = {"seconds": seconds, "core_seconds": time.process_time() - self._used}
        return read | ({"gpu_seconds": seconds} if self._on_gpu else {})


def bytes_to_fetch(blob: bytes, before: bytes | None) -> int:
    """Bytes that come down to a site that holds `before`, of a blob of the same purpose."""
    if before is None or len(before) != len(blob):
        return len(blob)
    length = block_length(len(blob))
    old, new = (block_digests([content], length) for content in (before, blob))
    spans = changed_spans(new, old, size_bytes=len(blob), length=length)
    return len(new) + sum(span.end - span.start for span in spans)


def cost_of(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """A run's cost by the names of COSTS, from what its rounds say; empty for a run that counted no costs."""
    if not rounds or any("traffic" not in entry for entry in rounds):
        return {}
    first, later = (
        [Traffic(*traffic) for traffic in rounds[0]["traffic"].values()],
        [Traffic(*traffic) for entry in rounds[1:] for traffic in entry["traffic"].values()],
    )
    cost = {"core seconds": sum(entry["core_seconds"] for entry in rounds)}
    if all("gpu_seconds" in entry for entry in rounds):
        cost["GPU seconds"] = sum(entry["gpu_seconds"] for entry in rounds)
    if first or later:
        cost["MB up"] = fmean(traffic.up for traffic in (*first, *later)) / _MB
    if first:
        cost["MB down, first"] = fmean(traffic.down for traffic in first) / _MB
    if later:
        cost["MB down, later"] = fmean(traffic.down for traffic in later) / _MB
    return cost
