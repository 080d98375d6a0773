"""What extras of pyproject.toml require, with extras of our own resolved: what tools/lock.py locks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_OWN = re.compile(r"^fedafd\[(?P<extras>[^\]]+)\]$")


def requirements(project: dict[str, object], extras: list[str]) -> list[str]:
    """All requirements of the package and of `extras`, sorted. Raises KeyError for an extra that does not exist."""
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict) and isinstance(project["dependencies"], list)
    found, waiting, seen = set(project["dependencies"]), list(extras), set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in optional[extra]:
            own = _OWN.match(requirement)
            if own:
                waiting += [name.strip() for name in own["extras"].split(",")]
            else:
                found.add(requirement)
    return sorted(found)


def project_of(path: Path) -> dict[str, object]:
    """The table `project` of a pyproject.toml."""
    described: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return described
