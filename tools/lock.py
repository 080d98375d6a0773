"""Write locks/: every distribution that an installation takes, at the versions of constraints.txt, with its hashes.

`python tools/lock.py` asks the package index (uv must be installed); `--check` asks nobody and compares the locks with
constraints.txt, pyproject.toml and each other. PyTorch and the CUDA libraries that its builds bring have a lock
of their own, as PyTorch may come from another index, whose builds have other hashes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from list_requirements import project_of, requirements

ROOT = Path(__file__).parent.parent
LOCKS = {
    "dev": ["dev"],
    "docs": ["docs"],
    "vision": ["vision"],
    "release": ["release"],
    "wandb": ["wandb"],
    "services": ["control-plane", "aggregator", "tracing"],
    "distiller": ["distiller", "lora", "tracing", "vision"],
    "agent": ["agent", "dicom", "lora", "privacy", "tracing", "vision"],
}
"""Each lock, and the extras of pyproject.toml that it is for. Images are made of the last three. An extra that no lock
names must be part of what one names."""
_BESIDE = {"vision": "dev"}
"""A lock that is installed beside another lacks what that one has."""
_PYTHON, _NEWER = "3.11", {"docs": "3.11.5"}
"""The oldest version that a lock is for: what only an old one needs stands in it, too."""
_TORCH = re.compile(r"^(torch|triton|nvidia-.*|cuda-.*)$")
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?==(?P<version>[^ ;\\]+)")
_HEADER = "# Written by tools/lock.py (make lock) from pyproject.toml and constraints.txt; not edited by hand.\n"


def main() -> int:
    if "--check" in sys.argv:
        problems = list(_problems())
        print("\n".join(problems) or "locks: as constraints.txt and pyproject.toml say")
        return 1 if problems else 0
    with tempfile.TemporaryDirectory() as folder:
        whole = {name: _resolved(name, extras, Path(folder)) for name, extras in LOCKS.items()}
    (ROOT / "locks").mkdir(exist_ok=True)
    torch = {entry for text in whole.values() for entry in _entries(text) if _TORCH.match(_name(entry))}
    _write("torch", sorted(torch))
    for name, text in whole.items():
        there = {_name(entry) for entry in _entries(whole[_BESIDE[name]])} if name in _BESIDE else set()
        entries = [entry for entry in _entries(text) if not _TORCH.match(_name(entry))]
        _write(name, [entry for entry in entries if _name(entry) not in there])
    return 0


def _resolved(name: str, extras: list[str], folder: Path) -> str:
    wanted, made = folder / f"{name}.in", folder / f"{name}.lock"
    wanted.write_text("\n".join(requirements(project_of(ROOT / "pyproject.toml"), extras)), encoding="utf-8")
    command = ["uv", "pip", "compile", str(wanted), "--constraint", "constraints.txt", "--output-file", str(made)]
    shape = [
        "--universal",
        "--python-version",
        _NEWER.get(name, _PYTHON),
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--quiet",
    ]
    subprocess.run([sys.executable, "-m", *command, *shape], cwd=ROOT, check=True)
    return made.read_text(encoding="utf-8")


def _entries(text: str) -> list[str]:
    """Each distribution's lines: its pin, and one line for each hash."""
    lines = [line for line in text.splitlines() if not line.startswith(("#", "--"))]
    return re.split(r"\n(?=\S)", "\n".join(lines).strip())


def _name(entry: str) -> str:
    pin = _PIN.match(entry)
    if pin is None:
        raise SystemExit(f"locks: not a pinned distribution: {entry.splitlines()[0]!r}")
    return _plain(pin["name"])


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _write(name: str, entries: list[str]) -> None:
    (ROOT / "locks" / f"{name}.lock").write_text(_HEADER + "\n".join(entries) + "\n", encoding="utf-8")


def _problems() -> Iterator[str]:
    pinned = {
        _plain(pin["name"]): pin["version"]
        for pin in map(_PIN.match, (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
        if pin
    }
    project = project_of(ROOT / "pyproject.toml")
    yield from _unlocked(project)
    torch = {_name(entry) for entry in _entries(_read("torch"))}
    for lock in ("torch", *LOCKS):
        entries = _entries(_read(lock))
        for entry in entries:
            name, pin = _name(entry), _PIN.match(entry)
            if "--hash=sha256:" not in entry:
                yield f"locks/{lock}.lock: {name} has no hash: make lock"
            if pin and pinned.get(name, pin["version"]) != pin["version"]:
                yield f"locks/{lock}.lock: {name} {pin['version']}, and constraints.txt has {pinned[name]}: make lock"
        beside = _entries(_read(_BESIDE[lock])) if lock in _BESIDE else []
        locked = torch | {_name(entry) for entry in [*entries, *beside]}
        for requirement in requirements(project, LOCKS.get(lock, [])) if lock in LOCKS else []:
            name = _plain(re.split(r"[\[<>=!~; ]", requirement)[0])
            if name not in locked:
                yield f"locks/{lock}.lock: lacks {name}, which pyproject.toml requires: make lock"


def _unlocked(project: dict[str, object]) -> Iterator[str]:
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict)
    covered = [set(requirements(project, extras)) for extras in LOCKS.values()]
    for extra in optional:
        wanted = set(requirements(project, [extra]))
        if not any(wanted <= locked for locked in covered):
            yield f"pyproject.toml: no lock holds the extra {extra}; name it in LOCKS of tools/lock.py: make lock"


def _read(name: str) -> str:
    path = ROOT / "locks" / f"{name}.lock"
    if not path.exists():
        raise SystemExit(f"{path.relative_to(ROOT)} is missing: make lock")
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
