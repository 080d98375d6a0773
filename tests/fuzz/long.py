"""Fuzzers in two lengths: a few examples, the same each time, in `make test`; for FUZZ_SECONDS each in `make fuzz`."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

__all__ = ["IS_LONG", "first_seed", "fuzz", "libfuzzer_seed"]

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
SEED = os.environ.get("FUZZ_SEED")
"""Of a long run that is to be repeated."""
IS_LONG = SECONDS > 0
_EXAMPLES_OF_A_SEED = 25
"""Within one seed hypothesis varies what it made before; another seed begins elsewhere."""


def fuzz(strategy: SearchStrategy[Any], attack: Callable[[Any], None], examples: int) -> None:
    """Call `attack` with what `strategy` makes: so many examples, or new ones until the time is over.

    A long run prints its seed; FUZZ_SEED repeats it. What fails is shown as it was first met: the attacked process has
    a state, so that a smaller example need not fail any more.
    """
    until = time.monotonic() + SECONDS
    number, left = first_seed(), examples
    while time.monotonic() < until if IS_LONG else left > 0:
        if IS_LONG:
            sys.stderr.write(f"FUZZ_SEED={number}\n")
        _once(strategy, attack, _EXAMPLES_OF_A_SEED if IS_LONG else min(left, _EXAMPLES_OF_A_SEED), number)
        number, left = number + 1, left - _EXAMPLES_OF_A_SEED


def first_seed() -> int:
    """What FUZZ_SEED names; else of a long run a new one, and of a short one the same each time."""
    return int(SEED) if SEED else secrets.randbelow(2**31) if IS_LONG else 0


def libfuzzer_seed(number: int) -> int:
    """For libFuzzer's `-seed`, an unsigned number of 32 bits: to it 0 means a seed of its own, another each time."""
    return number % (2**32 - 1) + 1


def _once(strategy: SearchStrategy[Any], attack: Callable[[Any], None], examples: int, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def once(example: Any) -> None:
        attack(example)

    once()
