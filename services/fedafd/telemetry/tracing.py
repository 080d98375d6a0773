"""Traces: one trace from the REST call that queues a round to the last site's delivery. Off unless asked for.

The standard variables of OpenTelemetry decide: an endpoint (OTEL_EXPORTER_OTLP_ENDPOINT or
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) turns tracing on; OTEL_SDK_DISABLED=true or OTEL_TRACES_EXPORTER=none keep it off;
OTEL_EXPORTER_OTLP_PROTOCOL is `grpc` or `http/protobuf` (the default); samplers, headers and so on are the SDK's.

Between processes a trace travels as W3C `traceparent` text: in HTTP headers, in the round's row, in Celery's headers
and in gRPC metadata. While tracing is off nothing is imported and every function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from fedafd.domain.errors import ConfigurationError, FedafdError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

__all__ = [
    "TRACEPARENT",
    "configure_tracing",
    "current_traceparent",
    "note",
    "span",
    "span_below",
    "trace_metadata",
    "traceparent_in",
]

TRACEPARENT = "traceparent"
"""Name of the header, metadata key and message header."""

Kind = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_tracer: Tracer | None = None


def configure_tracing(process: str) -> bool:
    """Start tracing if the environment asks for it; True if it did. `process` names the service by default.

    Raises ConfigurationError for a protocol that is not known, or where the packages are not installed.
    """
    global _tracer
    if not _wanted():
        return False
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter()
    except ImportError as error:
        raise ConfigurationError(
            f"tracing: OTEL_* variables ask for it, but {error.name} is missing; pip install 'fedafd[tracing]'"
        ) from None
    name = os.environ.get("OTEL_SERVICE_NAME") or f"fedafd-{process}"
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("fedafd")
    return True


@contextmanager
def span(name: str, *, parent: str | None = None, kind: Kind = "INTERNAL", **attributes: str | float) -> Iterator[None]:
    """A span around the block; below `parent` (a traceparent) if given, else below the current span."""
    if _tracer is None:
        yield
        return
    from opentelemetry import trace

    context = _context(parent) if parent else None
    named = {f"fedafd.{key}": value for key, value in attributes.items()}
    with _tracer.start_as_current_span(
        name,
        context=context,
        kind=trace.SpanKind[kind],
        attributes=named,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except Exception as error:
            # Spans leave the machine: the error's code and no more, since its text may name files and samples.
            current.set_status(trace.StatusCode.ERROR, error.code if isinstance(error, FedafdError) else "unexpected")
            raise


@contextmanager
def span_below(parent: str | None, name: str, *, kind: Kind = "INTERNAL", **attributes: str | float) -> Iterator[None]:
    """A span below `parent`; none at all where there is no parent, so that work that nobody traces makes no traces."""
    if parent is None:
        yield
        return
    with span(name, parent=parent, kind=kind, **attributes):
        yield


def note(**attributes: str | float) -> None:
    """Add attributes to the current span."""
    if _tracer is not None:
        from opentelemetry import trace

        trace.get_current_span().set_attributes({f"fedafd.{key}": value for key, value in attributes.items()})


def current_traceparent() -> str | None:
    """The current span as W3C traceparent; None outside any span and while tracing is off."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(TRACEPARENT)


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """gRPC metadata that carries the current span; empty while tracing is off."""
    current = current_traceparent()
    return () if current is None else ((TRACEPARENT, current),)


def traceparent_in(metadata: Iterable[tuple[str, str | bytes]] | Mapping[str, str] | None) -> str | None:
    """The traceparent in headers or metadata; None if there is none."""
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata or ()
    return next((value for key, value in pairs if key == TRACEPARENT and isinstance(value, str)), None)


def _wanted() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    return any(os.environ.get(name) for name in _ENDPOINTS)


def _exporter() -> SpanExporter:
    name = "OTEL_EXPORTER_OTLP_PROTOCOL"
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(name, "http/protobuf")
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    raise ConfigurationError(f"{name}: {protocol!r} is not one of grpc, http/protobuf")


def _context(parent: str) -> Context:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({TRACEPARENT: parent})
