"""Prometheus metrics: names, buckets and the HTTP endpoint that all processes share.

Names are `fedafd_<process>_<what>_<unit>`; beside them stand Prometheus's own `process_*` (memory, CPU, open files).
Labels are few and bounded: a federation's name, a state, a kind; never an id or a client's name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from fedafd.domain.errors import ConfigurationError
from fedafd.telemetry.gpu import GpuCollector

__all__ = ["LATENCY_BUCKETS", "STAGE_BUCKETS", "Metrics", "MetricsServer", "start_metrics_server"]

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; requests and short database work."""
STAGE_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
"""Seconds; training and whole rounds."""


class Metrics:
    """The metrics of one process in a registry of their own, so that two in one interpreter (tests) never clash."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, process: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(GpuCollector(process))
        self._prefix = f"fedafd_{process.replace('-', '_')}"

    def counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        """A counter `fedafd_<process>_<name>_total`."""
        return Counter(f"{self._prefix}_{name}", help, labels, registry=self.registry)

    def gauge(self, name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
        """A gauge `fedafd_<process>_<name>`."""
        return Gauge(f"{self._prefix}_{name}", help, labels, registry=self.registry)

    def histogram(
        self, name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS
    ) -> Histogram:
        """A histogram `fedafd_<process>_<name>`; name the unit in it, such as `stage_seconds`."""
        return Histogram(f"{self._prefix}_{name}", help, labels, registry=self.registry, buckets=buckets)

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text format, of type `content_type`."""
        return generate_latest(self.registry)

    @contextmanager
    def timed(self, histogram: Histogram, **labels: str) -> Iterator[None]:
        """Observe how many seconds the block took, whether or not it raised."""
        started = perf_counter()
        try:
            yield
        finally:
            (histogram.labels(**labels) if labels else histogram).observe(perf_counter() - started)


class MetricsServer:
    """A running /metrics endpoint; also a context manager that stops it."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=metrics.registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics: cannot listen on {host}:{port}: {error.strerror}; choose another port", host=host, port=port
            ) from error
        self.host = host
        self.port: int = self._server.server_port
        self._lock = threading.Lock()
        self._running = True

    def stop(self) -> None:
        """Stop serving; harmless when repeated."""
        with self._lock:
            if self._running:
                self._running = False
                self._server.shutdown()
                self._server.server_close()
                self._thread.join()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_metrics_server(metrics: Metrics, host: str = "127.0.0.1", port: int = 0) -> MetricsServer:
    """Serve `metrics` over HTTP at /metrics from a daemon thread; port 0 takes a free one (`.port` tells).

    Raises ConfigurationError when the address is taken.
    """
    return MetricsServer(metrics, host, port)
