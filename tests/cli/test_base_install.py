"""Every command in an installation without extras: it works, or says which extra to install; never a stack trace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from tests.servers import ROOT

from fedafd.cli.main import app
from fedafd.cli.running import EXTRAS

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
    "agent headers": ["GET", "/v1/federations"],
    "audit export": ["audit.jsonl"],
    "audit redo": ["audit.jsonl"],
    "store verify": [],
    "bootstrap": [],
    "demo": [],
}
WITHOUT = {
    "agent approve",
    "agent sent",
    "agent status",
    "agent reset",
    "agent ui",
    "agent baseline",
    "audit export",
    "audit redo",
    "audit verify",
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


def blocked(*installed: str) -> set[str]:
    """Modules that an installation with these extras has not."""
    extras = tomllib.loads(OPTIONAL.read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    def modules(extra: str) -> set[str]:
        found = set()
        for name in extras[extra]:
            package, *options = re.split(r"[\[><=,\]]", name)
            if package == "fedafd":
                found |= {module for option in options if option in extras for module in modules(option)}
            else:
                found.add(MODULES.get(package, package.replace("-", "_")))
        return found

    listed = {module for extra in extras if extra != "dev" for module in modules(extra)}
    return listed - {module for extra in installed for module in modules(extra)}


def hidden(folder: Path, modules: set[str]) -> dict[str, str]:
    """An environment in which Python finds none of `modules`, by a hook of its start that is written into `folder`."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        f"HIDDEN = {modules!r}\n"
        "class Hider:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in HIDDEN:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hider())\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FEDAFD_")}
    return environment | {"PYTHONPATH": f"{folder}:{ROOT / 'services'}"}


def every_command(group: object = None, path: str = "") -> list[str]:
    group = group or typer.main.get_command(app)
    names: list[str] = []
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        below = f"{path} {name}".strip()
        names += every_command(command, below) if getattr(command, "commands", None) else [below]
    return names


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """What each command says without extras, and its exit status, in a folder with an agent.yaml."""
    folder = tmp_path_factory.mktemp("base")
    install = folder / "install"
    (install / "data").mkdir(parents=True)
    (install / "agent.yaml").write_text(AGENT)
    (install / "model").mkdir()
    (install / "model" / "config.json").write_text("{}")
    (install / "picture.png").write_bytes(b"x")
    environment = hidden(folder, blocked()) | {"HOME": str(install)}
    commands = every_command()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "cli" / "forked_commands.py"), str(install)],
        input=json.dumps([[*command.split(), *ARGUMENTS.get(command, [])] for command in commands]),
        cwd=install,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", every_command())
def test_a_command_of_a_base_install_gives_no_stack_trace(command: str, outcomes: dict[str, tuple[str, int]]) -> None:
    said, status = outcomes[command]
    assert "Traceback" not in said, said
    assert (status == 0) == (command in USEFUL), said
    if command.split()[0] in EXTRAS and command not in WITHOUT:
        assert f"pip install 'fedafd[{EXTRAS[command.split()[0]]}]'" in said


def test_the_extras_that_are_named_exist() -> None:
    extras = tomllib.loads(OPTIONAL.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(EXTRAS.values()) | {"all"} <= set(extras)


@pytest.mark.parametrize("process", ["aggregator", "distiller", "queries"])
def test_doctor_needs_the_extra_of_the_process_that_is_set_up_alone(process: str, tmp_path: Path) -> None:
    """In the image of each, as `docker compose exec SERVICE fedafd doctor` runs it."""
    environment = hidden(tmp_path, blocked({"queries": "distiller"}.get(process, process)))
    values = {"REDIS_URL": "redis://127.0.0.1:1/0", "STORE__URL": str(tmp_path / "store")}
    if process == "aggregator":
        values["DATABASE_URL"] = f"sqlite:///{tmp_path}/f.db"
    if process != "queries":
        values["INTERNAL_TOKEN"] = "of-enough-characters" * 2
    environment |= {f"FEDAFD_{process.upper()}_{name}": value for name, value in values.items()}
    command = [sys.executable, "-m", "fedafd.cli.main", "doctor", "--output", "json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    found = {each["about"]: each["words"] for each in json.loads(done.stdout or '{"findings": []}')["findings"]}
    assert found.get("settings") == f"{process}: complete", done.stderr or found
    assert "broker" in found, found
    assert not [words for words in found.values() if "is not installed" in words]
