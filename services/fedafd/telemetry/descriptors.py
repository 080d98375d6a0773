"""File descriptors of a service: each connection takes one, and so does each file of its store and its database.

A shell and systemd give a process 1024, and let it take more. Who opens a thousand connections and sends nothing keeps
everybody else out otherwise, and the store from being written.
"""

from __future__ import annotations

import resource

__all__ = ["RESERVED", "connections_for", "take_descriptors"]

RESERVED = 512
"""For the store, the database, Redis, and the listeners that strangers do not reach."""
_ENOUGH = 65_536
"""No process needs more, and some systems' limit is a milliard, over which a child may loop."""


def take_descriptors() -> int:
    """Raise this process's limit as far as it may; how many it has then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _ENOUGH if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def connections_for(descriptors: int) -> int:
    """How many connections a service with so many descriptors may have at once."""
    return max(descriptors - RESERVED, descriptors // 2)
