"""Build the package as a release would, the wheel out of the sdist, and check both (make package).

What is checked: every file of the package is in them and nothing else, the metadata are valid, and in environments of
their own, one for each extra that is named (`--extras "" control-plane`; "" is the base), the commands start. So they
do under each interpreter that `--pythons python3.12 python3.13` names, where it is there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent
STARTS = {
    "": [["-m", "fedafd.cli.entry", "--help"], ["-m", "fedafd.cli.entry", "--version"]],
    "control-plane": [["-c", "import fedafd.control_plane.app"]],
    "aggregator": [["-c", "import fedafd.aggregator.server"]],
    "distiller": [["-c", "import fedafd.distiller.worker"]],
    "agent": [["-c", "import fedafd.agent.main"], ["-m", "fedafd.cli.entry", "agent", "--help"]],
}
"""What must start where an extra is installed, beside what the base must."""


def build(source: Path, folder: Path) -> tuple[Path, Path]:
    """The sdist of a checkout, and the wheel that is made of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        script = f"from setuptools.build_meta import build_sdist; build_sdist({place!r})"
        _run([sys.executable, "-c", script], source)
        (made,) = Path(place).iterdir()
        sdist = made.replace(folder / made.name)
        _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir",
              place, str(sdist)], source)  # fmt: skip
        (built,) = Path(place).glob("*.whl")
        return sdist, built.replace(folder / built.name)


def problems(sdist: Path, wheel: Path, source: Path) -> Iterator[str]:
    """What is wrong with them."""
    wanted = {
        path.relative_to(source / "services").as_posix()
        for path in (source / "services" / "fedafd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        (about,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        described = archive.read(about)
    there = {name for name in names if ".dist-info/" not in name}
    yield from (f"{wheel.name}: has no {name}" for name in sorted(wanted - there))
    yield from (f"{wheel.name}: has {name}, which is not of the package" for name in sorted(there - wanted))
    with tarfile.open(sdist) as packed:
        top = sdist.name.removesuffix(".tar.gz")
        inside = {name.removeprefix(f"{top}/services/") for name in packed.getnames()}
    yield from (f"{sdist.name}: has no {name}" for name in sorted(wanted - inside))
    try:
        found = Metadata.from_email(described, validate=True)
    except ExceptionGroup as error:
        yield from (f"{wheel.name}: {each}" for each in error.exceptions)
        return
    if found.description_content_type != "text/markdown" or not found.description:
        yield f"{wheel.name}: has no description in Markdown"
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        yield f"{wheel.name}: has no licence"


def runs(interpreter: str) -> bool:
    """Whether it is there: a version manager's stand-in for one that is not installed ends with an error."""
    try:
        return subprocess.run([interpreter, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def try_out(wheel: Path, extra: str, interpreter: str = sys.executable) -> None:
    """Install it with an extra into an environment of its own, and start what must start there."""
    with tempfile.TemporaryDirectory() as place:
        _run([interpreter, "-m", "venv", "--without-pip", place], Path(place))
        python = str(Path(place) / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--python", python]
        named = f"{wheel}[{extra}]" if extra else str(wheel)
        limits = ["--constraint", str(ROOT / "constraints.txt")]
        _run([*pip, "install", "--quiet", "--no-compile", *limits, named], Path(place))
        _run([*pip, "check"], Path(place))
        for arguments in [*STARTS[""], *(STARTS[extra] if extra else [])]:
            _run([python, *arguments], Path(place))


def _run(command: list[str], place: Path) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: failed\n{done.stdout}{done.stderr}")


def main() -> int:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--extras", nargs="*", choices=list(STARTS), default=["", "control-plane"])
    parser.add_argument("--pythons", nargs="*", default=[], help="Interpreters to try beside this one.")
    given = parser.parse_args()
    sdist, wheel = build(ROOT, given.folder.resolve())
    found = list(problems(sdist, wheel, ROOT))
    print("\n".join(found) or f"{sdist.name}, {wheel.name}: whole, metadata valid")
    if found:
        return 1
    for interpreter in [sys.executable, *given.pythons]:
        if not runs(interpreter):
            print(f"{interpreter}: is not here, nothing was tried under it")
            continue
        for extra in given.extras:
            try_out(wheel, extra, interpreter)
            print(f"{Path(interpreter).name}: fedafd{f'[{extra}]' if extra else ''} installs alone, and starts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
