"""Each extra brings all that its part of the package imports: every other installed distribution is out of reach.

`make package` installs extras into clean environments, which takes gigabytes for those with torch; this needs none.
"""

from __future__ import annotations

import importlib.metadata
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedafd

MODULES = {
    "control-plane": ("fedafd.control_plane",),
    "aggregator": ("fedafd.aggregator", "fedafd.region"),
    "distiller": ("fedafd.distiller", "fedafd.learning.server_round", "fedafd.learning.parallel"),
    "agent": ("fedafd.agent", "fedafd.datasets", "fedafd.learning.client_round", "fedafd.algorithm"),
    "ui": ("fedafd.agent.ui",),
    "simulation": ("fedafd.simulation",),
    "demo": ("fedafd.local", "fedafd.cli.demo", "fedafd.cli.up"),
}
"""Packages and modules by the extra that must suffice for them; of packages all modules but those of `OTHERS`."""
OTHERS = {"agent": ("fedafd.agent.ui", "fedafd.datasets.dicom")}
"""What is in a package and has an extra of its own."""
_ONLY = """
import importlib, importlib.machinery, importlib.metadata, json, re, sys
allowed, modules = json.loads(sys.argv[1])
owners = {
    top: {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    for top, names in importlib.metadata.packages_distributions().items()
}

class Reached:
    find_distributions = staticmethod(importlib.machinery.PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        owner = owners.get(name.partition(".")[0])
        if owner is not None and not owner & set(allowed):
            return None
        return importlib.machinery.PathFinder.find_spec(name, path, target)

sys.meta_path = [Reached() if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
for module in modules:
    importlib.import_module(module)
"""


def brought_by(extra: str) -> set[str]:
    """The distributions that `pip install fedafd[extra]` installs, of those that are here."""
    known: set[tuple[str, str]] = set()
    waiting = [("fedafd", extra)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in known:
            continue
        known.add((name, wanted))
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, needed):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                waiting += [(canonicalize_name(requirement.name), more) for more in ("", *requirement.extras)]
    return {name for name, _ in known}


def modules_of(extra: str) -> Iterator[str]:
    for name in MODULES[extra]:
        yield name
        package = fedafd.__path__[0] + name.removeprefix("fedafd").replace(".", "/")
        for module in pkgutil.walk_packages([package], prefix=f"{name}."):
            if not module.name.startswith(OTHERS.get(extra, ("-",))) and not module.name.endswith(".__main__"):
                yield module.name


@pytest.mark.parametrize("extra", sorted(MODULES))
def test_an_extra_brings_what_its_modules_import(extra: str) -> None:
    given = json.dumps([sorted(brought_by(extra)), list(modules_of(extra))])
    done = subprocess.run([sys.executable, "-c", _ONLY, given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_an_extra_does_not_bring_is_out_of_reach() -> None:
    assert {"torch", "fastapi"} <= brought_by("demo")
    assert "torch" not in brought_by("control-plane")
    given = json.dumps([sorted(brought_by("aggregator")), ["fedafd.learning.server_round"]])
    done = subprocess.run([sys.executable, "-c", _ONLY, given], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr
