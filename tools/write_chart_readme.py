"""Writes the table of values into the README of each chart, from the comments in values.yaml; --check only compares.

A key is described by the comment lines above it. `##` describes a section whose keys have comments of their own; a
mapping that is described with `#` is one value as a whole. A value without a comment is an error.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHARTS = Path(__file__).resolve().parent.parent / "helm"
START, END = "<!-- values -->", "<!-- /values -->"
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")
_COMMENT = re.compile(r"^ *(#+) ?(.*)$")
_HEAD = "| value | default | meaning |\n|---|---|---|\n"


class Comment(NamedTuple):
    """The comment above a key; `section` if it was written with `##`."""

    text: str
    section: bool


class Value(NamedTuple):
    """One row of the table."""

    path: str
    default: str
    text: str


def comments(source: str) -> dict[str, Comment]:
    """The comment above each key, by the key's path with dots."""
    found: dict[str, Comment] = {}
    path: list[str] = []
    lines: list[str] = []
    section = False
    for line in source.splitlines():
        if match := _COMMENT.match(line):
            section = section or match[1] == "##"
            lines.append(match[2])
            continue
        if match := _KEY.match(line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if lines:
                found[".".join(path)] = Comment(" ".join(lines), section)
        lines, section = [], False
    return found


def rows(values: Mapping[str, Any], described: Mapping[str, Comment], prefix: str = "") -> Iterator[Value]:
    """Values in the order of the file. Raises ValueError for a value without a comment."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        comment = described.get(path)
        if isinstance(value, dict) and (comment is None or comment.section):
            yield from rows(value, described, f"{path}.")
        elif comment is None:
            raise ValueError(f"{path}: has no comment")
        else:
            yield Value(path, json.dumps(value), comment.text)


def tables(chart: Path) -> str:
    """The chart's values as Markdown: one table per section, and one for each run of values between sections."""
    source = (chart / "values.yaml").read_text(encoding="utf-8")
    described, out, in_section = comments(source), [], True
    for key, value in yaml.safe_load(source).items():
        section = isinstance(value, dict) and (key not in described or described[key].section)
        if section:
            text = described[key].text if key in described else ""
            out.append(f"\n### `{key}`\n\n{text}".rstrip() + f"\n\n{_HEAD}")
        elif in_section:
            out.append(f"\n### More\n\n{_HEAD}" if out else f"\n{_HEAD}")
        out += [_line(row) for row in rows({key: value}, described)]
        in_section = section
    return "".join(out).strip() + "\n"


def _line(row: Value) -> str:
    return f"| `{row.path}` | `{row.default}` | {row.text} |\n"


def rendered(chart: Path) -> str:
    """The chart's README with the current table. Raises ValueError where it has no place for it."""
    text = (chart / "README.md").read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise ValueError(f"{chart.name}/README.md: needs the lines {START} and {END}")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{tables(chart)}\n{END}{after}"


def main() -> int:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    status = 0
    for chart in sorted(path.parent for path in CHARTS.glob("*/Chart.yaml")):
        try:
            text = rendered(chart)
        except ValueError as error:
            print(f"helm/{chart.name}: {error}", file=sys.stderr)
            return 1
        readme = chart / "README.md"
        if not check:
            readme.write_text(text, encoding="utf-8")
        elif readme.read_text(encoding="utf-8") != text:
            print(f"helm/{chart.name}/README.md is out of date; run: make charts", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
