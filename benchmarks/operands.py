"""What operators take and return: leaves in tuples, lists and dicts.

torch's own walk, of trees of any kind, costs more than a small operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["leaves", "mapped"]


def leaves(value: Any) -> Iterator[Any]:
    """All leaves, in order."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same tree with `function` of each leaf. A named tuple, as some operators return, becomes a plain one."""
    if isinstance(value, tuple):
        return tuple([mapped(function, each) for each in value])
    if isinstance(value, list):
        return [mapped(function, each) for each in value]
    if isinstance(value, dict):
        return {name: mapped(function, each) for name, each in value.items()}
    return function(value)
