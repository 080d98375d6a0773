"""Timing by interleaved repeats, peak memory, and facts about the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedafd.simulation.summary import half_width

__all__ = ["Clock", "Ratio", "Report", "Times", "interleaved", "interval_95", "machine_facts", "peak_extra_bytes"]

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Times:
    """Seconds of each repeat of one way to do something."""

    wall: list[float]
    cpu: list[float]

    def of(self, clock: Clock) -> list[float]:
        """By the clock on the wall, or of this process's own work on all its threads."""
        return self.wall if clock == "wall" else self.cpu

    def median(self, clock: Clock) -> float:
        """The middle repeat."""
        return statistics.median(self.of(clock))


@dataclass(frozen=True)
class Ratio:
    """A figure that a target is set for; `at_most` or `at_least` is the target, None where there is none."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most if self.at_most is not None else None


@dataclass
class Report:
    """One case of a benchmark."""

    benchmark: str
    case: str
    times: dict[str, Times] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    skipped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        ratios = [asdict(ratio) | {"holds": ratio.holds} for ratio in self.ratios]
        return asdict(self) | {"ratios": ratios}


def interleaved(ways: Mapping[str, Callable[[], Any]], repeats: int, *, warm_up: bool = True) -> dict[str, Times]:
    """Each way once to warm up, then `repeats` rounds of each in turn, so that a busy moment hits all alike.

    Without `warm_up` the first round counts: for smoke tests, whose figures mean nothing.
    """
    times = {name: Times([], []) for name in ways}
    for number in range(not warm_up, repeats + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            if number:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return times


def interval_95(values: Sequence[float]) -> str:
    """Of the mean over seeds, by Student's t; for a table."""
    if len(values) < 2:
        return "one seed"
    mean, half = statistics.fmean(values), half_width(values)
    return f"{mean - half:.3g} to {mean + half:.3g}"


def peak_extra_bytes(work: Callable[[], Any]) -> int:
    """Resident memory that `work` needs at its peak beyond what is resident when it starts (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _status_bytes("VmRSS")
    work()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def machine_facts() -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    held = torch.cpu.get_capabilities()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": [name for name in ("amx_bf16", "avx512_bf16") if held.get(name)],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.release()}",
    }
