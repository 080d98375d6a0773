"""Writes the state diagrams of docs/architecture.md from the transition table, or checks that they are current.

`python -m fedafd.domain.diagram docs/architecture.md` rewrites; with `--check` it only compares and exits 1.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path

from fedafd.domain.states import PARTICIPATION_TRANSITIONS, ROUND_TRANSITIONS, STAGE_TRANSITIONS

__all__ = ["mermaid", "updated"]

_Table = Mapping[StrEnum, Collection[StrEnum]]

_DIAGRAMS: dict[str, _Table] = {
    "round": {old: new for old, new in ROUND_TRANSITIONS.items()},
    "participation": {old: new for old, new in PARTICIPATION_TRANSITIONS.items()},
    "stage": {old: new for old, new in STAGE_TRANSITIONS.items()},
}


def mermaid(table: _Table) -> str:
    """A Mermaid state diagram of one transition table, in the order of the states' definition."""
    order = list(table)
    lines = ["stateDiagram-v2", f"    [*] --> {order[0].value}"]
    for old in order:
        lines += [f"    {old.value} --> {new.value}" for new in order if new in table[old]]
        if not table[old]:
            lines.append(f"    {old.value} --> [*]")
    return "\n".join(lines)


def updated(text: str) -> str:
    """`text` with the block between each pair of `<!-- states:NAME -->` markers made anew."""
    for name, table in _DIAGRAMS.items():
        pattern = re.compile(rf"(<!-- states:{name} -->\n).*?(<!-- /states:{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"no <!-- states:{name} --> block")
        block = f"```mermaid\n{mermaid(table)}\n```\n"
        text = pattern.sub(rf"\g<1>{block}\g<2>", text)
    return text


def main() -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if the diagrams are out of date")
    arguments = parser.parse_args()
    old = arguments.path.read_text(encoding="utf-8")
    new = updated(old)
    if not arguments.check:
        arguments.path.write_text(new, encoding="utf-8")
    elif new != old:
        print(f"{arguments.path}: state diagrams are out of date; run: make diagrams", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
