"""Rounds on a stack, seen as an operator on the host sees them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from tests.compose.stack.docker import Stack, run

from fedafd.client.answers import RoundDetails
from fedafd.client.federation import FederationClient
from fedafd.domain.process_errors import ControlPlaneError

OPEN = frozenset({"queued", "preparing", "collecting", "distilling", "evaluating"})
T = TypeVar("T")


def patiently(ask: Callable[[], T], seconds: float = 180) -> T:
    """Ask again while the control plane is down or says that it cannot serve."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except ControlPlaneError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def round_state(rest: FederationClient, number: int) -> RoundDetails:
    return patiently(lambda: rest.round(number))


def completed(rest: FederationClient, number: int, seconds: float = 600, parts: int = 3) -> RoundDetails:
    deadline = time.monotonic() + seconds
    while (answer := round_state(rest, number))["state"] in OPEN:
        assert time.monotonic() < deadline, f"round {number} is still {answer}"
        time.sleep(0.5)
    assert answer["state"] == "completed", (answer["reason"], answer["participations"])
    assert [each["state"] for each in answer["participations"]] == ["delivered"] * parts
    return answer


def fedafd(stack: Stack, *arguments: str, **environment: str) -> str:
    """The command line, as an operator uses it on the host."""
    own = {"FEDAFD_URL": stack.url, "FEDAFD_API_KEY": stack.admin_key, "FEDAFD_FEDERATION": "local"}
    command = [sys.executable, "-m", "fedafd.cli.main", *arguments]
    return run(command, environment=stack.environment | own | environment, seconds=900)
