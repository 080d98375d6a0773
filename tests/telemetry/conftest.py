"""What a process would write to its log, for tests of it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from fedafd.telemetry.logging import configure


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a process would write to stderr; the test run's own logging is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    target = io.StringIO()
    configure("aggregator", stream=target)
    yield target
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
