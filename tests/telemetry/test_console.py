"""Logs on a terminal are for people; everywhere else they are JSON."""

from __future__ import annotations

import io
import json
import os
import pty
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedafd.agent.sentences import SENTENCES
from fedafd.domain.errors import DataError
from fedafd.telemetry import logging as logs

AGENT = Path(__file__).resolve().parents[2] / "services" / "fedafd" / "agent"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    yield
    logs.configure("tests", format="json")


def _console(sentences: dict[str, str]) -> io.StringIO:
    stream = io.StringIO()
    logs.configure("agent", format="console", stream=stream, sentences=sentences)
    return stream


def test_a_pipe_gets_json_and_a_terminal_gets_lines() -> None:
    stream = io.StringIO()
    logs.configure("agent", stream=stream)
    logs.get_logger("x").info("agent.enrolled", client="ward")
    assert json.loads(stream.getvalue())["client"] == "ward"
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        logs.configure("agent", stream=terminal)
        logs.get_logger("x").info("agent.enrolled", client="ward")
        terminal.flush()
        line = os.read(leader, 4096).decode()
        logs.configure("agent", format="json")
    os.close(leader)
    assert "agent enrolled" in line and "client ward" in line and "{" not in line


def test_a_sentence_takes_its_fields_and_the_rest_follows() -> None:
    stream = _console({"agent.enrolled": "enrolled as {client}"})
    logs.get_logger("x").warning("agent.enrolled", client="ward", reason="it was time", round=3)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  warning: enrolled as ward: it was time \(round 3\)\n", stream.getvalue())


def test_control_characters_in_values_do_not_reach_the_terminal() -> None:
    stream = _console({})
    logs.get_logger("x").info("agent.seen", name="a\x1b[2Jb\nc", reason="\x9bd")
    assert "\x1b" not in stream.getvalue() and "\x9b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_only_an_error_of_no_kind_of_ours_brings_its_stack_trace() -> None:
    stream = _console({})
    for error in (DataError("scan.png: broken"), ZeroDivisionError("no")):
        try:
            raise error
        except Exception as caught:
            logs.get_logger("x").exception("agent.round_failed", reason=str(caught))
    assert stream.getvalue().count("Traceback") == 1
    assert "ZeroDivisionError" in stream.getvalue()


def test_every_event_of_the_agent_has_a_sentence_and_no_sentence_is_left_over() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in AGENT.rglob("*.py") if path.name != "sentences.py")
    logged = set(re.findall(r'_log\.\w+\)?\(\s*"(agent\.\w+)"|"(agent\.\w+)" if|else "(agent\.\w+)"', source))
    names = {name for found in logged for name in found if name}
    names |= set(re.findall(r'_log\.warning\)\("(agent\.\w+)"', source))
    assert names == set(SENTENCES)
