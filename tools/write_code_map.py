"""Writes docs/code-map.md and docs/adr/README.md from first lines of packages and decisions; --check only compares."""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "services" / "fedafd"
MAP, DECISIONS = ROOT / "docs" / "code-map.md", ROOT / "docs" / "adr" / "README.md"
METHODS = ("CreamFL", "FedMD", "FedAvg")
MAP_HEAD = """# Code map

Which package does what, from the top of the layers to the bottom: a package imports those below it, never those above.
The sentences are the packages' own first lines (`make reference` writes this page; `make check` compares it). Tests
mirror the packages: `tests/rpc/test_tls.py` tests `services/fedafd/rpc/tls.py`. The [glossary](glossary.md) explains
words, and recipes for changes stand in [CONTRIBUTING](../CONTRIBUTING.md).

| layer | package | what it is |
|---|---|---|
"""
METHODS_HEAD = """
## Methods

FedAFD's own parts are `services/fedafd/algorithm/alignment.py`, `services/fedafd/algorithm/fusion.py` and
`services/fedafd/algorithm/distillation.py`. Its rivals are strategies (`services/fedafd/domain/strategies.py`):

| method | module |
|---|---|
"""
DECISIONS_HEAD = """# Decisions

One page for each decision that is not obvious from the code: context, decision, consequences, and what enforces it.

| no. | decision |
|---|---|
"""


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise SystemExit(f"{path.relative_to(ROOT)}: begin with a docstring that says what it is for")
    return docstring.splitlines()[0]


def layers() -> list[list[str]]:
    """The packages of each layer, the top first."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contract = next(each for each in tools["importlinter"]["contracts"] if each["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def packages(name: str) -> Iterator[tuple[str, Path]]:
    """A package and those inside of it, with dotted names."""
    for path in sorted((PACKAGE / name).rglob("__init__.py")):
        yield ".".join(path.parent.relative_to(PACKAGE).parts), path


def code_map() -> str:
    """The page of packages and methods."""
    rows = [
        f"| {number} | `fedafd.{name}` | {first_line(path)} |\n"
        for number, layer in enumerate(layers(), start=1)
        for top in layer
        for name, path in packages(top)
    ]
    methods = [f"| {method} | {_homes(method)} |\n" for method in METHODS]
    return "".join([MAP_HEAD, *rows, METHODS_HEAD, *methods])


def _homes(method: str) -> str:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        is_module = path.name != "__init__.py" and path.parent.name in ("algorithm", "learning")
        if is_module and method in docstring.split("\n\n")[0]:
            found.append(f"`services/fedafd/{path.relative_to(PACKAGE)}`")
    return ", ".join(found)


def decisions() -> str:
    """The page of decisions."""
    rows = []
    for path in sorted(DECISIONS.parent.glob("[0-9]*.md")):
        number, _, title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(". ")
        rows.append(f"| {number} | [{title}]({path.name}) |\n")
    return DECISIONS_HEAD + "".join(rows)


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 on a difference")
    check = parser.parse_args().check
    stale = []
    for path, text in ((MAP, code_map()), (DECISIONS, decisions())):
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            stale.append(str(path.relative_to(ROOT)))
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{', '.join(stale)}: not what the code says; run `make reference`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
