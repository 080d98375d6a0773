"""Whether Python and the libraries that each process needs are here, in versions that it works with."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fedafd.cli.doctor.findings import Finding, bad, fine

__all__ = ["look_at_versions"]

_EXTRAS = {"queries": "distiller"}
"""Of a process whose extra has another name."""


def look_at_versions(processes: list[str]) -> Iterator[Finding]:
    """Python, then each process's extra."""
    wanted = SpecifierSet(metadata("fedafd")["Requires-Python"] or "")
    python = f"Python {platform.python_version()}"
    if platform.python_version() in wanted:
        yield fine("versions", f"fedafd {version('fedafd')}, {python}, {platform.system()} {platform.machine()}")
    else:
        yield bad("versions", f"{python}: fedafd needs {wanted}", f"install a Python {wanted} and fedafd into it")
    for process in processes:
        extra = _EXTRAS.get(process, process)
        wrong = sorted(_wrong(extra, set()))
        remedy = f"{sys.executable} -m pip install 'fedafd[{extra}]'"
        shown = f"{process}: {'; '.join(wrong) or _shown(extra)}"
        yield bad("versions", shown, remedy) if wrong else fine("versions", shown)


def _wrong(extra: str, seen: set[str]) -> Iterator[str]:
    """What of the extra, and of those that it is made of, is missing or of a version that does not fit."""
    if extra in seen:
        return
    seen.add(extra)
    for requirement in _requirements(extra):
        if requirement.name == "fedafd":
            for further in requirement.extras:
                yield from _wrong(further, seen)
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield f"{requirement.name} is not installed"
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                yield f"{requirement.name} is {installed}, needed is {requirement.specifier}"


def _requirements(extra: str) -> Iterator[Requirement]:
    for text in requires("fedafd") or ():
        requirement = Requirement(text)
        # What stands in no extra holds for this environment without one.
        if (
            requirement.marker is not None
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})
        ):
            yield requirement


def _shown(extra: str) -> str:
    names = [requirement.name for requirement in _requirements(extra) if requirement.name != "fedafd"]
    return ", ".join(f"{name} {version(name)}" for name in names)
