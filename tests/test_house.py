"""Rules of the house that no other tool checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.long import LONG

from fedafd.domain import errors

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers")
MODULE_LINES, PAGE_LINES = 400, 300
"""Past these look for the second subject."""
NEVER = {
    "fedafd.control_plane.app": (*HEAVY, "celery.app.base"),
    "fedafd.aggregator.server": (*HEAVY, "pyarrow", "fastapi"),
    "fedafd.agent.main": (
        *HEAVY,
        "sqlalchemy",
        "minio",
        "celery",
        "redis",
        "fastapi",
        "starlette",
        "jinja2",
        "uvicorn",
    ),
    "fedafd.agent.site": ("sqlalchemy", "minio", "celery", "redis", "torch"),
    "fedafd.region.main": (*HEAVY, "celery", "fastapi", "starlette"),
    "fedafd.distiller.tasks": ("sqlalchemy", "fastapi"),
    "fedafd.distiller.queries.worker": ("sqlalchemy", "fastapi", "grpc", "celery.app.base"),
    "fedafd.cli.main": (*HEAVY, "sqlalchemy", "minio", "celery", "grpc", "fastapi", "pyarrow"),
    "fedafd": HEAVY,
}


@pytest.mark.parametrize("module", NEVER)
def test_a_process_loads_only_what_it_may(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {NEVER[module]!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_error_has_a_status_and_is_documented() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FedafdError)]
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for kind in kinds:
        status = errors.ERROR_STATUS[kind]
        assert f"| `{kind.code}` | {status.http} | {status.grpc} |" in text


@pytest.mark.parametrize("name", LONG)
def test_what_is_begun_first_is_there(name: str) -> None:
    assert (ROOT / name).exists()


PAGES = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("path", [*PAGES, "../README.md"])
def test_links_between_documents_lead_somewhere(path: str) -> None:
    document = ROOT / "docs" / path
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{path}: {target}"


def test_no_module_and_no_page_is_longer_than_one_reads() -> None:
    folders = ("services", "tests", "tools", "benchmarks", "examples")
    modules = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "helm").glob("*/README.md")]
    written = [path for path in modules if "proto" not in path.parts]
    assert len(written) > 300
    assert len(pages) > 40
    assert [str(path) for path in written if _lines(path) > MODULE_LINES] == []
    assert [str(path) for path in pages if _lines(path) > PAGE_LINES] == []


def test_the_readme_is_short() -> None:
    assert _lines(ROOT / "README.md") < 150


def _lines(path: Path) -> int:
    """But for a chart's table of values, which is written from its file and looked things up in."""
    text = re.sub(r"<!-- values -->.*<!-- /values -->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return len(text.splitlines())


def test_every_file_of_the_package_is_in_its_wheel() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["fedafd"]
    package = ROOT / "services" / "fedafd"
    files = [each for each in package.rglob("*") if each.is_file() and "__pycache__" not in each.parts]
    others = [each.relative_to(package) for each in files if each.suffix not in (".py", ".pyi")]
    assert any(each.suffix == ".html" for each in others)
    assert [each for each in others if not any(each.match(pattern) for pattern in patterns)] == []


@pytest.mark.parametrize("tool", ["write_code_map.py", "write_api_pages.py"])
def test_pages_that_are_made_from_the_code_say_what_it_says(tool: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / tool), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


VAGUE = frozenset({"found", "made", "told", "held", "each", "place", "places", "meet", "aims"})
"""Names that say nothing of what a variable holds, whether private, of a class or a constant, or with a shape."""


def _is_vague(name: str) -> bool:
    without_shape = name if name.isupper() else re.sub(r"_[A-Z0-9]+$", "", name)
    return without_shape.strip("_").lower() in VAGUE


def test_names_in_the_package_say_what_they_hold() -> None:
    package = ROOT / "services" / "fedafd"
    paths = [path for path in package.rglob("*.py") if "proto" not in path.parts]
    assert len(paths) > 300
    vague = [
        f"{path.relative_to(package)}:{line}: {name}"
        for path in paths
        for name, line in _bound_names(ast.parse(path.read_text(encoding="utf-8")))
        if _is_vague(name)
    ]
    assert vague == []


@pytest.mark.parametrize(
    "code",
    [
        "found = 1",
        "found: int = 1",
        "[each for each in (1, 2)]",
        "def of(place: str) -> None: ...",
        "class Row:\n    made: int",
        "with open('x') as held: ...",
        "try: ...\nexcept ValueError as told: ...",
        "match 1:\n    case aims: ...",
        "def meet() -> None: ...",
        "def of(self): self.place = 1",
        "def of(self): self._held = 1",
        "class Made: ...",
        "PLACES = ()",
        "told_ND = 1",
    ],
)
def test_a_vague_name_is_seen(code: str) -> None:
    assert any(_is_vague(name) for name, _ in _bound_names(ast.parse(code)))


def test_docstrings_explain_parameters_that_there_are() -> None:
    package = ROOT / "services" / "fedafd"
    stale = [
        f"{path.relative_to(package)}:{line}: {name}"
        for path in package.rglob("*.py")
        if "proto" not in path.parts
        for name, line in _explained_but_missing(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert stale == []


def test_a_parameter_that_is_explained_but_missing_is_seen() -> None:
    code = '''def read(source):
    """Raises DataError naming `place`."""
class Check:
    """`stage`: where."""
    def __init__(self, stage, size):
        """`size`: of what `stage` has; `limit`: the most."""'''
    assert [name for name, _ in _explained_but_missing(ast.parse(code))] == ["place", "limit"]


def _explained_but_missing(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a docstring explains, as "`name`: " or "naming `name`", of no parameter or field there is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            known = {name for name, _ in _bound_names(node)}
            text = ast.get_docstring(node) or ""
            explained = re.findall(r"`([a-z][a-z0-9_]*)`:", text) + re.findall(r"naming `([a-z][a-z0-9_]*)`", text)
            yield from ((name, node.lineno) for name in explained if name not in known and "__" not in name)


def test_log_keys_say_what_they_hold() -> None:
    package = ROOT / "services" / "fedafd"
    vague = [
        f"{path.relative_to(package)}:{line}: {key}"
        for path in package.rglob("*.py")
        for key, line in _log_keys(ast.parse(path.read_text(encoding="utf-8")))
        if _is_vague(key) or key in ("of", "who", "what", "looked")
    ]
    assert vague == []


def test_a_log_key_is_seen() -> None:
    code = '_log.info("login.failed", who="somebody")\nself._log.warning("agent.compared", told="better")'
    assert [key for key, _ in _log_keys(ast.parse(code))] == ["who", "told"]


def _log_keys(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Keywords of calls that log an event, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=log), args=[ast.Constant(value=str()), *_], keywords=keywords):
                if ast.unparse(log).rpartition(".")[2] in ("log", "_log"):
                    yield from ((keyword.arg or "", node.lineno) for keyword in keywords)


def _bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of variables, parameters, functions and attributes that a module binds, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno
