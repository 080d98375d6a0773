"""What differs between two configurations, key by key, in the words of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

__all__ = ["Difference", "differences", "flat"]


class Difference(NamedTuple):
    """One key with another value; None where a side does not have it."""

    key: str
    now: object
    then: object


def flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each value with its path, such as `server.passes`; not the federation's name."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif key != "name" or prefix:
            yield f"{prefix}{key}", value


def differences(now: Mapping[str, object], then: Mapping[str, object]) -> list[Difference]:
    """Keys whose values differ, in the order of `now`, and after them those that `then` alone has."""
    old, new = dict(flat(now)), dict(flat(then))
    keys = [*old, *(key for key in new if key not in old)]
    return [Difference(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]
