"""Logs are one JSON event per line and keep secrets; metrics are named by one rule and served over HTTP."""

from __future__ import annotations

import io
import json
import logging
import socket
from typing import Any

import httpx
import pytest

from fedafd.domain.errors import ConfigurationError
from fedafd.telemetry.logging import bind_context, configure, get_logger
from fedafd.telemetry.metrics import Metrics, start_metrics_server


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_its_context(stream: io.StringIO) -> None:
    with bind_context(federation="trial", round_number=3, client="north", stage="fold"):
        get_logger("fedafd.x").info("round.closed", reason="two\nlines")
    get_logger("fedafd.x").info("after")
    first, second = events(stream)
    assert (first["event"], first["reason"], first["process"], first["level"]) == (
        "round.closed",
        "two\nlines",
        "aggregator",
        "info",
    )
    assert (first["federation"], first["round"], first["client"], first["stage"]) == ("trial", 3, "north", "fold")
    assert "federation" not in second
    assert first["timestamp"].endswith("Z")


@pytest.mark.parametrize("key", ["credential", "enrolment_token", "api_key", "Authorization", "db_password", "secret"])
def test_values_whose_key_names_a_secret_are_masked(stream: io.StringIO, key: str) -> None:
    get_logger("fedafd.x").info("call", **{key: "fedafd-key.abc"})
    assert "fedafd-key.abc" not in stream.getvalue()
    assert events(stream)[0][key] == "***"


def test_other_libraries_and_exceptions_take_the_same_form(stream: io.StringIO) -> None:
    logging.getLogger("other.library").warning("plain %s", "text")
    try:
        raise ValueError("broken")
    except ValueError:
        get_logger("fedafd.x").exception("failed")
    plain, failed = events(stream)
    assert (plain["event"], plain["process"]) == ("plain text", "aggregator")
    assert "ValueError: broken" in failed["exception"]


@pytest.mark.parametrize(("level", "format"), [("loud", "json"), ("INFO", "xml")])
def test_an_unknown_level_or_format_is_refused(level: str, format: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not one of"):
        configure("x", level=level, format=format)


def test_metrics_are_named_after_the_process_and_served() -> None:
    metrics = Metrics("control-plane")
    metrics.counter("calls", "Calls.", ["code"]).labels(code="OK").inc(2)
    metrics.gauge("open", "Open.").set(1)
    seconds = metrics.histogram("call_seconds", "Seconds.")
    with pytest.raises(ValueError, match="broken"), metrics.timed(seconds):
        raise ValueError("broken")
    with start_metrics_server(metrics) as server:
        text = httpx.get(f"http://{server.host}:{server.port}/metrics").text
        server.stop()
        server.stop()
    for line in (
        'fedafd_control_plane_calls_total{code="OK"} 2.0',
        "fedafd_control_plane_open 1.0",
        "fedafd_control_plane_call_seconds_count 1.0",
    ):
        assert line in text.splitlines()


def test_two_processes_in_one_interpreter_do_not_clash() -> None:
    for _ in range(2):
        Metrics("agent").counter("rounds", "Rounds.").inc()


def test_a_metrics_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}: .*; choose another port"):
            start_metrics_server(Metrics("agent"), port=port)
