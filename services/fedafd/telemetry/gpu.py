"""GPU memory of a process that has torch loaded; nothing, and no import of torch, in one that has not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["GpuCollector"]


class GpuCollector(Collector):
    """`fedafd_<process>_gpu_memory_bytes{device, kind}`, read when Prometheus asks.

    Kinds: `total` and `free` of the device, whoever uses it; `allocated` and `peak` by this process's tensors.
    """

    def __init__(self, process: str) -> None:
        self._name = f"fedafd_{process.replace('-', '_')}_gpu_memory_bytes"

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The current values; a family without samples where there is no GPU."""
        family = GaugeMetricFamily(self._name, "GPU memory in bytes.", labels=("device", "kind"))
        cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
        # A device that this process has not touched yet is left alone: asking would make a context on it.
        if cuda is not None and cuda.is_initialized():
            for number in range(cuda.device_count()):
                free, total = cuda.mem_get_info(number)
                values = {
                    "total": total,
                    "free": free,
                    "allocated": cuda.memory_allocated(number),
                    "peak": cuda.max_memory_allocated(number),
                }
                for kind, value in values.items():
                    family.add_metric((str(number), kind), value)
        yield family
