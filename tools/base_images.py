"""Lists the images of others that ours are built from, or that the Compose files and charts run.

Each is named by a variable of the environment, or as its file has it. With `--by-digest`, for a release, it exits
with 1 and names each that a tag alone names: what a tag means can change.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
_BY_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_COMPOSED = re.compile(r"^\s+image: \"?(\$\{(?P<variable>\w+):-)?(?P<image>[^\s\"}]+)", re.M)
_BASE = re.compile(r"^ARG (?P<variable>\w+_IMAGE)=(?P<image>\S+)", re.M)
_CHARTED = re.compile(r"^\s+image: (?P<image>\S+:\S+)$", re.M)


class Image(NamedTuple):
    """An image of others."""

    variable: str
    """Of the environment; empty in a chart, whose values name it."""
    name: str
    file: str

    @property
    def is_by_digest(self) -> bool:
        return _BY_DIGEST.search(self.name) is not None


def images(root: Path, environment: Mapping[str, str]) -> Iterator[Image]:
    """As they are used with that environment, the files of each in order."""
    for file, pattern in _files(root):
        for found in pattern.finditer(file.read_text(encoding="utf-8")):
            if found["image"].startswith("fedafd/"):
                continue
            variable = found.groupdict().get("variable") or ""
            yield Image(variable, environment.get(variable) or found["image"], str(file.relative_to(root)))


def _files(root: Path) -> Iterator[tuple[Path, re.Pattern[str]]]:
    yield from ((file, _BASE) for file in (root / "Dockerfile", *sorted((root / "deploy").glob("*/Dockerfile"))))
    yield from (
        (file, _COMPOSED) for file in (root / "docker-compose.yml", *sorted((root / "deploy/compose").glob("*.yml")))
    )
    yield from ((file, _CHARTED) for file in sorted((root / "helm").glob("*/values.yaml")))


def main() -> int:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--by-digest", action="store_true")
    by_digest = parser.parse_args().by_digest
    status = 0
    for image in images(ROOT, os.environ):
        if not by_digest:
            print(f"{image.variable or '-'} {image.name} {image.file}")
        elif image.variable and not image.is_by_digest:
            print(f"{image.file}: {image.name} is a tag; set {image.variable}={image.name}@sha256:...", file=sys.stderr)
            status = 1
        elif not image.is_by_digest:
            print(f"{image.file}: {image.name} is a tag of a trial's store; whoever installs it names its digest")
    return status


if __name__ == "__main__":
    sys.exit(main())
