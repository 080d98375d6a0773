"""How often a service looks for garbage that refers to itself.

Python looks through all young objects after 700 new ones, and now and then through all there are. Nearly all that a
service makes for a call is freed without that search; what lives, its modules above all, is looked through again and
again for nothing.
"""

from __future__ import annotations

import gc

__all__ = ["collect_seldom"]

_YOUNG = 20_000
"""New objects between two looks at the young ones."""


def collect_seldom() -> None:
    """Call it once a service has loaded all that it needs, before its first call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
