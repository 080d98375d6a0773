"""Every command in an installation without extras: it works, or says which extra to install; never a stack trace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from tests.servers import ROOT

from fedafd.cli.main import _EXTRAS, app

OPTIONAL = ROOT / "pyproject.toml"
MODULES = {
    "opentelemetry-sdk": "opentelemetry",
    "opentelemetry-exporter-otlp-proto-grpc": "opentelemetry",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "protobuf": "google",
    "pillow": "PIL",
    "pycryptodome": "Crypto",
    "python-multipart": "multipart",
    "python-gdcm": "gdcm",
}
"""Packages whose module has another name."""
ARGUMENTS: dict[str, list[str]] = {
    "health": ["grpc://127.0.0.1:1"],
    "migrate": ["--database-url", "sqlite:///x.db"],
    "predict": ["model", "picture.png"],
    "search": ["model", "a word", "--images", "data"],
    "simulate": ["--preset", "small"],
    "simulate compare": ["first", "second"],
    "agent run": ["--config", "agent.yaml"],
    "agent check": ["--config", "agent.yaml", "--offline"],
    "agent init": ["data", "--output", "new.yaml"],
    "agent export": ["copy", "--config", "agent.yaml"],
    "store verify": [],
    "bootstrap": [],
    "demo": [],
}
WITHOUT = {
    "agent sent",
    "agent status",
    "agent reset",
    "agent ui",
    "agent baseline",
    "store provision",
    "store verify",
    "store prune",
    "migrate current",
    "region sent",
    "simulate compare",
}
"""Commands that need no extra, or that end before they need one."""
USEFUL = {"profile list"}
"""Commands that have something to say without a server, a folder or an extra."""
AGENT = "aggregator: 127.0.0.1:1\nkind: image\ndata: {adapter: shapes}\nstate_dir: state\n"


def blocked() -> set[str]:
    project = tomllib.loads(OPTIONAL.read_text(encoding="utf-8"))["project"]
    listed = [name for extra, names in project["optional-dependencies"].items() if extra != "dev" for name in names]
    packages = {re.split(r"[\[><=]", name)[0] for name in listed} - {"fedafd"}
    return {MODULES.get(name, name.replace("-", "_")) for name in packages}


def every_command(group: object = None, path: str = "") -> list[str]:
    group = group or typer.main.get_command(app)
    names: list[str] = []
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        below = f"{path} {name}".strip()
        names += every_command(command, below) if getattr(command, "commands", None) else [below]
    return names


@pytest.fixture
def install(tmp_path: Path) -> Path:
    """A folder with an agent.yaml and, for PYTHONPATH, a hook that hides all that extras bring."""
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "data").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "picture.png").write_bytes(b"x")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        f"HIDDEN = {blocked()!r}\n"
        "class Hider:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in HIDDEN:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hider())\n"
    )
    return tmp_path


@pytest.mark.parametrize("command", every_command())
def test_a_command_of_a_base_install_gives_no_stack_trace(command: str, install: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FEDAFD_")}
    environment |= {"PYTHONPATH": f"{install}:{ROOT / 'services'}", "HOME": str(install)}
    done = subprocess.run(
        [sys.executable, "-m", "fedafd.cli.main", *command.split(), *ARGUMENTS.get(command, [])],
        cwd=install,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert (done.returncode == 0) == (command in USEFUL), said
    if command.split()[0] in _EXTRAS and command not in WITHOUT:
        assert f"pip install 'fedafd[{_EXTRAS[command.split()[0]]}]'" in said


def test_the_extras_that_are_named_exist() -> None:
    extras = tomllib.loads(OPTIONAL.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(_EXTRAS.values()) | {"all"} <= set(extras)
