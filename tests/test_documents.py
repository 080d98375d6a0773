"""What the documents name exists: files, commands and their options, make targets, variables, modules, endpoints."""

from __future__ import annotations

import functools
import importlib
import json
import posixpath
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer
from pydantic import BaseModel
from pydantic_settings import BaseSettings
from tests.documents import blocks
from tests.servers import ROOT

from fedafd.agent.settings import AgentSettings
from fedafd.aggregator.settings import AggregatorSettings
from fedafd.cli.main import app
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.distiller.queries.settings import QueriesSettings
from fedafd.distiller.settings import DistillerSettings
from fedafd.region.settings import RegionSettings

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "helm").glob("*/README.md"),
        ROOT / "examples" / "README.md",
    ]
)
FOLDERS = ("services", "tests", "docs", "tools", "deploy", "helm", "protos", "benchmarks", "examples", ".ci")
MADE = ("deploy/secrets", "deploy/certificates")
"""What a target makes, and a checkout has not."""
SETTINGS: tuple[type[BaseSettings], ...] = (
    AgentSettings,
    AggregatorSettings,
    ControlPlaneSettings,
    DistillerSettings,
    QueriesSettings,
    RegionSettings,
)
GROUPS = ("fedafd.encoders", "fedafd.datasets", "fedafd.tasks", "fedafd.trackers", "fedafd.strategies")
REMOVED = ("fedafd.v1.CoordinationService",)
_VARIABLE = re.compile(r"\bFEDAFD_[A-Z0-9_]*[A-Z0-9]\b(?!\*|_)")
_PATH = re.compile(rf"^(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*$")


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    missing = []
    for span in spans(page):
        for word in span.split():
            name = word.partition("::")[0].rstrip("/.,")
            if _PATH.match(name) and not name.startswith(MADE) and not (ROOT / name).exists():
                missing.append(name)
            if re.fullmatch(r"(?:test|r[0-9]{4})_\w+\.py", name) and not list(ROOT.rglob(f"[st]e*/**/{name}")):
                missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_names_exist(page: str) -> None:
    assert [problem for command in commands(page) if (problem := wrong(command))] == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_that_a_page_names_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    found = [*spans(page), *(line for block in blocks(page, "sh") for line in block.splitlines())]
    named = {target for text in found for target in re.findall(r"(?:^|&& )make ([a-z][a-z-]*)", text)}
    assert named - targets == set()


@pytest.mark.parametrize("page", PAGES)
def test_variables_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert {name for name in _VARIABLE.findall(text) if not known_variable(name)} == set()


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_a_page_names_exist(page: str) -> None:
    assert [s for s in spans(page) if re.fullmatch(r"fedafd(\.[A-Za-z_]\w*)+", s) and not importable(s)] == []


@pytest.mark.parametrize("page", PAGES)
def test_endpoints_that_a_page_names_exist(page: str) -> None:
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"]
    known = [re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path)) for path in paths]
    named = [word.partition("?")[0] for span in spans(page) for word in span.split() if word.startswith("/v1/")]
    assert [path for path in named if not any(each.fullmatch(path) for each in known)] == []


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("fedafd agent run --config agent.yaml --token X", None),
        ("fedafd migrate --revision base", None),
        ("fedafd agent fly", "no command fly"),
        ("fedafd round start --wings 2", "no option --wings"),
        ("fedafd fly", "no command fly"),
    ],
)
def test_a_command_is_followed_to_its_options(command: str, problem: str | None) -> None:
    assert (wrong(command) or "").endswith(problem or "")
    assert (wrong(command) is None) == (problem is None)


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[str] = set()
    left = ["README.md"]
    while left:
        page = left.pop()
        if page in seen or not (ROOT / page).is_file():
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", (ROOT / page).read_text(encoding="utf-8"))
        left += [posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) for link in links]
    assert set(PAGES) - seen == set()


def test_a_setting_is_known_by_its_whole_name() -> None:
    assert known_variable("FEDAFD_CONTROL_PLANE_STORE__URL")
    assert not known_variable("FEDAFD_CONTROL_PLANE_STORE__URI")


def spans(page: str) -> list[str]:
    """What stands between backticks, outside of fenced blocks."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands(page: str) -> Iterator[str]:
    """The `fedafd` commands of a page, in the text and in blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    for text in [*spans(page), *lines]:
        found = re.search(r"(?:^|[;&|(] ?|\bexec )(?:\.venv/bin/)?(fedafd [a-z][^;&|)#]*)", text)
        if found is not None:
            yield found[1].replace("...", "").strip()


def wrong(command: str) -> str | None:
    """What is wrong with a command line, None if its commands and options exist."""
    at = typer.main.get_command(app)
    for word in shlex.split(command.replace("'", ""))[1:]:
        if word.startswith("--"):
            names = {name for each in at.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
            if word.partition("=")[0] not in names:
                return f"{command}: no option {word}"
        elif isinstance(at, click.Group) or hasattr(at, "commands"):
            if word not in at.commands:
                # A group that runs by itself has options with values.
                if getattr(at, "invoke_without_command", False):
                    return None
                return f"{command}: no command {word}"
            at = at.commands[word]
    return None


@cache
def known_variable(name: str) -> bool:
    """Whether a process's settings have it, or the code, a deployment or a test reads it by that name."""
    if name in _read_by_deployments():
        return True
    for kind in SETTINGS:
        prefix = str(kind.model_config["env_prefix"])
        if name.startswith(prefix):
            return name.removeprefix(prefix).lower() in set(_fields(kind))
    return name in _read_somewhere()


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _fields(kind, f"{prefix}{name}__")


@cache
def _read_by_deployments() -> frozenset[str]:
    """What Compose puts into its files: `${NAME}` and `${NAME:-default}`."""
    files = [ROOT / "docker-compose.yml", *(ROOT / "deploy").rglob("*.yml")]
    return frozenset(name for path in files for name in re.findall(r"\$\{(FEDAFD_\w+)", path.read_text("utf-8")))


@cache
def _read_somewhere() -> frozenset[str]:
    kinds = {".py", ".yml", ".yaml", ".sh", ".tpl", ""}
    files = [path for top in ("services", "deploy", "helm", "tests", "tools") for path in (ROOT / top).rglob("*")]
    files += [ROOT / name for name in ("Makefile", "docker-compose.yml", "Dockerfile")]
    texts = [
        path.read_text(encoding="utf-8", errors="ignore")
        for path in files
        if path.is_file() and path.suffix in kinds and path != Path(__file__)
    ]
    return frozenset(name for text in texts for name in _VARIABLE.findall(text))


def importable(name: str) -> bool:
    """Whether it is a module, what a module holds, an entry point group, or a service that was removed."""
    if name in GROUPS or name in REMOVED:
        return True
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        try:
            functools.reduce(getattr, parts[count:], found)
        except AttributeError:
            return False
        return True
    return False
