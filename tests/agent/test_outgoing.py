"""Whatever goes wrong at a site, a code and a count leave it: no path, name, text or class of the site's."""

from __future__ import annotations

import asyncio
import builtins
import errno
import functools
import importlib
import io
import math
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.agent.scene import Scene, play

from fedafd.agent import outgoing
from fedafd.agent.outgoing import activity_to_send, departure_of, fraction_to_send, metrics_to_send
from fedafd.agent.patient_calls import StopRequestedError
from fedafd.agent.training import LocalResult, LocalTask, ProgressCallback, TrainingCancelledError
from fedafd.domain.config import SharingConfig
from fedafd.domain.errors import (
    DataError,
    FedafdError,
    ForbiddenError,
    IdentityInUseError,
    RoundClosedError,
    UnauthenticatedError,
)
from fedafd.domain.leaving import CLIENT_METRICS, SAID_BY_AGENTS, Activity, ActivityKind, LeaveReason
from fedafd.domain.process_errors import WeightsNotSharedError
from fedafd.telemetry import tracing
from fedafd.telemetry.logging import configure

SHARE = SharingConfig()
PLANTED = "mueller-4711"
"""In a path, a label, a text, a caption and a class's name; nothing else holds it."""
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PACKAGES = [f"fedafd.{name}" for name in ("agent", "algorithm", "datasets", "domain", "learning", "rpc", "telemetry")]
"""What runs at a site."""
MESSAGES = (
    f"/data/xrays/{PLANTED}/scan.png: cannot be read",
    f"class {PLANTED!r}: has no sample",
    f"texts.csv, line 7: 'the patient {PLANTED} has' is too long",
    f"captions.json: caption {PLANTED} has no picture",
)
SILENT = (UnauthenticatedError, ForbiddenError, IdentityInUseError, RoundClosedError)
"""End the agent or its part in the round without a word."""
ROUNDS_OF_AN_AGENT = 25
"""An agent asks for sixty tasks at once and then for one a second; a round takes two."""


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def error_types() -> list[type[Exception]]:
    """All of ours, those of Python that code may raise, and one whose very name is private."""
    for package in PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            importlib.import_module(module.name)
    ours: set[type[Exception]] = {FedafdError, *subclasses(FedafdError)}
    pythons: set[type[Exception]] = {
        e for e in vars(builtins).values() if isinstance(e, type) and issubclass(e, Exception)
    }
    named: type[Exception] = type(f"Error_{PLANTED.replace('-', '_')}", (DataError,), {})
    return [*sorted(ours | pythons, key=lambda kind: kind.__name__), named]


def raised(kind: type[Exception], message: str) -> Exception:
    """An error of that type with the message in it, its arguments, its file name and its data."""
    made = (
        kind.__new__(kind, message)
        if not issubclass(kind, BaseExceptionGroup)
        else kind(message, [ValueError(message)])
    )
    made.args = (message, message)
    if isinstance(made, OSError):
        made.filename, made.strerror, made.errno = message, message, errno.EIO
    if isinstance(made, FedafdError):
        made.data = {"path": message, "affected": 3, "label": message}
    made.add_note(message)
    made.__cause__ = ValueError(message)
    return made


class FailingTrainer:
    """Raises the next error in each round."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors

    def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
        progress(math.nan, Activity(ActivityKind.TRAINING, 5, 2))
        raise self.errors.pop(0)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    return exporter


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    """The agent's own log, which stays at the site and may say everything."""
    stream = io.StringIO()
    configure("agent", stream=stream)
    yield stream
    structlog.reset_defaults()


def assert_nothing_private(*texts: object) -> None:
    for text in texts:
        content = text if isinstance(text, bytes) else str(text).encode()
        for form in (PLANTED, PLANTED.replace("-", "_")):
            assert form.encode() not in content, content
            assert form.encode("utf-16-le") not in content


def test_no_error_takes_a_word_of_the_site_with_it(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    errors = [raised(kind, "; ".join(MESSAGES)) for kind in error_types() if not issubclass(kind, SILENT)]
    assert len(errors) > 80
    for first in range(0, len(errors), ROUNDS_OF_AN_AGENT):
        some = errors[first : first + ROUNDS_OF_AN_AGENT]
        folder = tmp_path / str(first)
        server = play(folder, functools.partial(_failing_rounds, some)).server
        assert len(server.left) == len(some)
        assert set(server.left) <= SAID_BY_AGENTS
        assert_nothing_private(*server.wire, (folder / "site" / "sent.jsonl").read_text())
    assert_nothing_private(*(span.to_json() for span in spans.get_finished_spans()))
    assert any(span.status.description == "invalid-data" for span in spans.get_finished_spans())


async def _failing_rounds(errors: list[Exception], scene: Scene) -> None:
    count = len(errors)
    scene.trainer = FailingTrainer(list(errors))  # type: ignore[assignment]

    def next_round() -> bool:
        if scene.server.task.HasField("idle") and len(scene.server.left) < count:
            scene.server.assign(len(scene.server.left) + 1, blob_bytes=100)
            scene.server.task.train.traceparent = TRACEPARENT
        return len(scene.server.left) == count

    await scene.run(next_round, seconds=90)


@pytest.mark.parametrize("kind", [*SILENT, TrainingCancelledError, StopRequestedError])
def test_errors_that_end_the_agent_or_its_part_say_nothing_at_all(tmp_path: Path, kind: type[Exception]) -> None:
    async def scenario(scene: Scene) -> None:
        scene.trainer = FailingTrainer([raised(kind, MESSAGES[0])])  # type: ignore[assignment]
        scene.server.assign()
        try:
            async with asyncio.timeout(30):
                await scene.run(lambda: not scene.trainer.errors)  # type: ignore[attr-defined]
        except SILENT:
            pass

    server = play(tmp_path, scenario).server
    assert server.left == []
    assert_nothing_private(*server.wire)


def test_each_code_of_ours_leads_to_a_reason_of_its_own_where_there_is_one() -> None:
    known = {kind.code for kind in error_types() if issubclass(kind, FedafdError)}
    assert set(outgoing._BY_CODE) <= known
    assert departure_of(WeightsNotSharedError("x"), SHARE).reason is LeaveReason.WEIGHTS_NOT_SHARED
    assert departure_of(MemoryError(), SHARE).reason is LeaveReason.OUT_OF_MEMORY
    assert departure_of(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), SHARE).reason is (
        LeaveReason.OUT_OF_MEMORY
    )
    assert departure_of(OSError(errno.ENOSPC, "full", "/data/x"), SHARE).reason is LeaveReason.DISK_FULL
    assert departure_of(PermissionError(errno.EACCES, "no", "/data/x"), SHARE).reason is LeaveReason.DISK_FAILED
    assert departure_of(KeyError("x"), SHARE).reason is LeaveReason.UNEXPECTED


@pytest.mark.parametrize(
    ("affected", "told"), [(3, 3), (0, 0), (-1, 0), (2**41, 0), (True, 0), ("3", 0), (3.5, 0), (None, 0)]
)
def test_a_count_is_a_number_of_things_or_is_not_told(affected: Any, told: int) -> None:
    error = DataError("x", affected=affected)
    assert departure_of(error, SHARE).num_affected == told
    assert departure_of(error, SharingConfig(metrics=False)).num_affected == 0


@settings(max_examples=50, deadline=None)
@given(
    metrics=st.dictionaries(
        st.one_of(st.sampled_from(sorted(CLIENT_METRICS)), st.text(max_size=20)),
        st.one_of(st.floats(), st.text(max_size=5), st.none()),
        max_size=8,
    )
)
def test_metrics_that_leave_are_known_and_finite(metrics: dict[str, Any]) -> None:
    sent = metrics_to_send(metrics, SHARE)
    assert set(sent) <= CLIENT_METRICS
    assert all(math.isfinite(value) for value in sent.values())
    assert metrics_to_send(metrics, SharingConfig(metrics=False)) == {}


@settings(max_examples=50, deadline=None)
@given(fraction=st.floats(), step=st.integers(-5, 2**40), steps=st.integers(-5, 2**40))
def test_progress_that_leaves_is_in_its_range(fraction: float, step: int, steps: int) -> None:
    assert 0 <= fraction_to_send(fraction) <= 1
    sent = activity_to_send(Activity(ActivityKind.TRAINING, step, steps))
    assert (sent.step, sent.steps) == (0, 0) or 0 < sent.step <= sent.steps < 2**31


def test_metrics_of_other_names_stay_when_delivering(tmp_path: Path) -> None:
    class Chatty:
        def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
            return LocalResult(
                representations=b"reps",
                state=b"state",
                personalized_model=None,
                metrics={"federated/acc1": 50.0, f"class/{PLANTED}": 1.0, "local/acc1": math.nan},
                num_private_samples=12,
            )

    async def scenario(scene: Scene) -> None:
        scene.trainer = Chatty()  # type: ignore[assignment]
        scene.server.assign()
        await scene.run(scene.settled)

    server = play(tmp_path, scenario).server
    assert dict(server.commits[0].metrics) == {"federated/acc1": 50.0}
    assert_nothing_private(*server.wire)
