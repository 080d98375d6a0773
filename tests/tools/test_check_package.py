"""The package is whole as it is built: every file of it, nothing else, and metadata that an index takes."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from tests.servers import ROOT
from tools.check_package import build, problems, runs


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A copy of what is built, the sdist, and the wheel."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "services" / "fedafd", source / "services" / "fedafd", ignore=skip)
    return source, *build(source, source / "dist")


@pytest.mark.timeout(300)
def test_the_package_is_whole_and_its_metadata_are_valid(built: tuple[Path, Path, Path]) -> None:
    source, sdist, wheel = built
    assert list(problems(sdist, wheel, source)) == []


@pytest.mark.timeout(300)
def test_a_file_that_was_left_out_one_too_many_and_wrong_metadata_are_named(
    built: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    source, sdist, wheel = built
    style = "fedafd/control_plane/dashboard/static/style.css"
    worse = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as good, zipfile.ZipFile(worse, "w") as bad:
        for entry in good.infolist():
            content = good.read(entry)
            if entry.filename.endswith("/METADATA"):
                content = content.replace(b"License-Expression: Apache-2.0", b"License-Expression: none-such")
            if entry.filename != style:
                bad.writestr(entry, content)
        bad.writestr("tests/left.py", "")
    found = list(problems(sdist, worse, source))
    assert found[:2] == [
        f"{wheel.name}: has no {style}",
        f"{wheel.name}: has tests/left.py, which is not of the package",
    ]
    assert "none-such" in found[2]


def test_an_interpreter_that_is_not_here_is_not_tried(tmp_path: Path) -> None:
    stand_in = tmp_path / "python3.99"
    stand_in.write_text("#!/bin/sh\nexit 127\n")
    stand_in.chmod(0o755)
    assert [runs(each) for each in (sys.executable, str(stand_in), str(tmp_path / "none"))] == [True, False, False]
