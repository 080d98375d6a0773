"""Which tests take many seconds, and are begun first."""

import itertools

__all__ = ["LONG", "turn_of"]

LONG = (
    "tests/end_to_end/",
    "tests/cli/test_demo_command.py",
    "tests/simulation/test_pool.py",
    "tests/simulation/test_simulate.py",
    "tests/learning/test_device.py",
    "tests/learning/test_recorded_steps.py",
    "tests/learning/test_pinned_weights.py",
    "tests/test_examples.py",
    "tests/test_extending.py",
    "tests/test_benchmarks.py",
)
"""How the names of their files begin, below the repository; the longest first."""


def turn_of(name: str) -> int:
    """When a test of that name is begun, among all. Those that are long follow each other, so that one worker has them
    while the others do short ones: federations beside federations take each other's time.
    """
    return next(itertools.chain((turn for turn, begin in enumerate(LONG) if name.startswith(begin)), [len(LONG)]))
