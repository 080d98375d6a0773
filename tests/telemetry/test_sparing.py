"""Nobody who reaches a port fills the log: beyond a limit, lines that strangers cause are counted and not written."""

from __future__ import annotations

import io
import json
import logging

import pytest

from fedafd.control_plane.connections import Connections
from fedafd.telemetry import sparing
from fedafd.telemetry.logging import get_logger
from fedafd.telemetry.sparing import LINES_A_MINUTE

_MOST_BYTES = 200_000


def refuse(code: str = "unauthenticated") -> None:
    """As the aggregator does for each call that it refuses."""
    get_logger("fedafd.aggregator.interceptor").info("rpc.refused", method="FetchTask", code=code, reason="no")


def complain() -> None:
    """As gRPC does for each header that is no text: with a trace."""
    try:
        b"\xff".decode()
    except UnicodeDecodeError:
        logging.getLogger("grpc._cython.cygrpc").exception("Invalid encoding on %s", b"\xff")


def connect() -> None:
    """As the control plane does with each connection beyond those that an address may have."""
    assert not Connections(most=0, of_an_address=1).begin("192.0.2.1")


@pytest.mark.parametrize("cause", [refuse, complain, connect])
def test_ten_thousand_of_a_kind_are_a_few_lines(stream: io.StringIO, cause: object) -> None:
    assert callable(cause)
    for _ in range(10_000):
        cause()
    lines = stream.getvalue().splitlines()
    assert len(lines) == LINES_A_MINUTE
    assert len(stream.getvalue()) < _MOST_BYTES
    assert "more lines of this kind are counted" in lines[-1]


def test_the_next_minute_begins_with_how_many_were_left_out(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(LINES_A_MINUTE + 7):
        refuse()
    monkeypatch.setattr(sparing, "_MINUTE", 0.0)
    refuse()
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert last["note"] == "7 more lines of this kind were left out before"
    assert last["code"] == "unauthenticated"


def test_other_codes_and_what_no_stranger_causes_are_written_in_full(stream: io.StringIO) -> None:
    for _ in range(2 * LINES_A_MINUTE):
        refuse()
        get_logger("fedafd.aggregator.delivery").info("delivery.accepted", client="north")
    refuse("forbidden")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sum(event["event"] == "delivery.accepted" for event in events) == 2 * LINES_A_MINUTE
    assert events[-1]["code"] == "forbidden"
