"""A service that looks for garbage seldom still finds it."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc
import weakref

from fedafd.telemetry.garbage import collect_seldom


class Node:
    pass


def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)


collect_seldom()
frozen = gc.get_freeze_count()
lost = cycle()
kept = []
while lost() is not None and len(kept) < 1_000_000:
    kept.append([])
print(frozen > 0, 700 < len(kept) < 1_000_000)
"""


def test_what_was_loaded_is_left_alone_and_a_cycle_is_freed_after_many_new_objects() -> None:
    answer = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.split() == ["True", "True"]
