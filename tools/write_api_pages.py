"""Writes the reference pages of the command line, of gRPC and of the Python API from the code; --check only compares.

The command line is read from the tree of commands, gRPC from the comments of the protos, and the Python API from the
docstrings of what its modules export.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer
from google.protobuf.descriptor_pb2 import (
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc  # type: ignore[import-untyped]

from fedafd.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "site": ("At a site", ("agent", "audit", "region")),
    "federation": ("Federations, their members and keys", ("federation", "public-set", "client", "key", "profile")),
    "rounds": ("Rounds, models and events", ("round", "model", "status", "events", "drain", "resume")),
    "server": (
        "The server's processes and their surroundings",
        ("control-plane", "aggregator", "distiller", "queries", "bootstrap", "migrate", "store", "doctor", "health"),
    ),
    "local": ("On one machine", ("demo", "up", "simulate", "predict", "search")),
}
"""Pages of the command line: what their commands are for, and the first words of these."""
OFTEN = {"--url", "--api-key", "--federation", "--output"}
"""Options of nearly all commands of a page, which are told once where they say the same."""
MODULES = (
    "fedafd.learning.global_model",
    "fedafd.learning.personalized_model",
    "fedafd.client.control_plane",
    "fedafd.client.operations",
    "fedafd.client.federation",
    "fedafd.client.downloads",
    "fedafd.client.set_up",
    "fedafd.datasets.samples",
    "fedafd.datasets.public_set",
    "fedafd.datasets.registry",
    "fedafd.learning.encoders",
    "fedafd.learning.tasks.base",
    "fedafd.simulation.federation",
    "fedafd.simulation.experiment",
    "fedafd.simulation.run",
    "fedafd.tracking.run",
)
"""The Python API: what a program of somebody else imports."""
NOTE = "`make reference` writes this page from the code; `make check` compares it.\n"
_TABLE = "| {} | meaning |\n|---|---|\n"


def command_pages() -> dict[str, str]:
    """The pages of the command line by file name. Raises ValueError for a command that is on none."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    placed = {name for _, names in GROUPS.values() for name in names}
    if placed != set(commands):
        raise ValueError(f"tools/write_api_pages.py: place these commands: {sorted(placed ^ set(commands))}")
    pages = {}
    for page, (title, names) in GROUPS.items():
        found = [each for name in names for each in _commands(commands[name], f"fedafd {name}")]
        shared = _shared(found)
        text = f"# Commands: {title}\n\n{NOTE}\n"
        if shared:
            text += f"Options of most of these commands (`--help` says which a command takes):\n\n{_options(shared)}\n"
        text += "\n".join(_command(path, command, shared) for path, command in found)
        pages[f"cli-{page}.md"] = text
    return pages


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if not below or getattr(command, "invoke_without_command", False):
        yield path, command
    for name, each in (below or {}).items():
        yield from _commands(each, f"{path} {name}")


def _shared(found: list[tuple[str, Any]]) -> dict[str, str]:
    rows = [row for _, command in found for row in _rows(command).items() if _first(row[0]) in OFTEN]
    return {name: row for name, row in rows if rows.count((name, row)) > len(found) / 2}


def _command(path: str, command: Any, shared: Mapping[str, str]) -> str:
    own = {name: row for name, row in _rows(command).items() if shared.get(name) != row}
    # Marks of rich, such as [bold].
    help_text = re.sub(r"\[/?[a-z ]*\]", "", command.help or "").strip()
    return f"## `{path}`\n\n{help_text}\n" + (f"\n{_options(own)}" if own else "")


def _options(rows: Mapping[str, str]) -> str:
    return _TABLE.format("option") + "\n".join(f"| {name} | {row} |" for name, row in rows.items()) + "\n"


def _rows(command: Any) -> dict[str, str]:
    rows = {}
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        if getattr(parameter, "hidden", False) or parameter.name in ("help", "install_completion", "show_completion"):
            continue
        names = [parameter.name.upper()] if is_argument else [*parameter.opts, *parameter.secondary_opts]
        words = _words(parameter.help)
        rows[", ".join(f"`{name}`" for name in names)] = _cell(words and f"{words}{_otherwise(parameter)}")
    return rows


def _first(name: str) -> str:
    return name.split("`")[1]


def _words(text: str | None) -> str:
    return re.sub(r"\[/?[a-z ]*\]", "", text or "").strip()


def _otherwise(parameter: Any) -> str:
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    told = [] if default in (None, "", False, True, ()) or callable(default) else [f"default `{default}`"]
    told += ["needed"] * bool(parameter.required)
    told += [f"variable `{parameter.envvar}`"] * bool(parameter.envvar)
    return f" ({'; '.join(told)})" if told else ""


def grpc_pages() -> dict[str, str]:
    """Services with their calls, and the messages, with the protos' comments, by file name."""
    services, rows = [], []
    for file in _protos():
        comments = {tuple(each.path): each.leading_comments for each in file.source_code_info.location}
        services += [_service(service, (6, number), comments) for number, service in enumerate(file.service)]
        for number, message in enumerate(file.message_type):
            rows.append(f"| `{message.name}` | | {_cell(comments.get((4, number), ''))} |")
            for index, field in enumerate(message.field):
                meaning = _cell(comments.get((4, number, 2, index), ""))
                rows.append(f"| `{message.name}.{field.name}` | {_kind(field)} | {meaning} |")
        for number, enum in enumerate(file.enum_type):
            for index, value in enumerate(enum.value):
                meaning = _cell(comments.get((5, number, 2, index), ""))
                rows.append(f"| `{value.name}` | {value.number} | {meaning} |")
    head = "The [protos](../../protos/fedafd/v1) are the contract."
    calls = f"# gRPC\n\n{NOTE}\n{head} Messages are in [grpc-messages.md](grpc-messages.md), errors in"
    calls += " [errors.md](../errors.md).\n\n" + "\n".join(services)
    messages = f"# gRPC: messages and values\n\n{NOTE}\n{head} Calls are in [grpc.md](grpc.md).\n\n"
    messages += "| name | kind | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    return {"grpc.md": calls, "grpc-messages.md": messages}


def _service(service: ServiceDescriptorProto, path: tuple[int, ...], comments: Mapping[tuple[int, ...], str]) -> str:
    calls = [
        f"| `{call.name}` | {'stream of ' * call.client_streaming}`{_last(call.input_type)}` |"
        f" {'stream of ' * call.server_streaming}`{_last(call.output_type)}` |"
        f" {_cell(comments.get((*path, 2, index), ''))} |"
        for index, call in enumerate(service.method)
    ]
    table = "| call | takes | gives | meaning |\n|---|---|---|---|\n" + "\n".join(calls)
    return f"## {service.name}\n\n{_paragraphs(comments.get(path, ''))}\n\n{table}\n"


def _protos() -> list[FileDescriptorProto]:
    include = files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "descriptors"
        names = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
        arguments = [f"-I{ROOT / 'protos'}", f"-I{include}", f"--descriptor_set_out={output}", "--include_source_info"]
        if protoc.main(["protoc", *arguments, *names]) != 0:
            raise SystemExit("protoc failed; see above")
        return list(FileDescriptorSet.FromString(output.read_bytes()).file)


def _kind(field: FieldDescriptorProto) -> str:
    kind = _last(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return "list of " * (field.label == FieldDescriptorProto.LABEL_REPEATED) + f"`{kind}`"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _paragraphs(comment: str) -> str:
    return "\n".join(line.strip() for line in comment.strip().splitlines())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def python_page() -> str:
    """What the modules of the API export: signatures, and what their docstrings begin with."""
    text = f"# Python API\n\n{NOTE}\n`fedafd.GlobalModel` and `fedafd.PersonalizedModel` read published models;"
    text += " other names are imported from the\nmodules that they stand under."
    text += " [extending.md](../extending.md) shows their use.\n"
    return text + "".join(_module(name) for name in MODULES)


def _module(name: str) -> str:
    tree = ast.parse((ROOT / "services" / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
    listed = next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    exported = set(ast.literal_eval(listed))
    rows = [row for node in tree.body for row in _definition(node) if getattr(node, "name", "") in exported]
    return f"\n## `{name}`\n\n{_summary(tree)}\n\n{_TABLE.format('name')}" + "\n".join(rows) + "\n"


def _definition(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _marks(node) & {"overload"}:
        yield f"| `{node.name}{_signature(node)}` | {_cell(_summary(node))} |"
    if not isinstance(node, ast.ClassDef):
        return
    yield f"| class `{node.name}` | {_cell(_summary(node))} |"
    for each in node.body:
        if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) or each.name.startswith("_"):
            continue
        if _marks(each) & {"overload"}:
            continue
        shown = "" if _marks(each) & {"property", "cached_property"} else _signature(each)
        yield f"| `{node.name}.{each.name}{shown}` | {_cell(_summary(each))} |"


def _marks(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """With the names of the arguments and what they may be left out for; what they are, the docstring says."""
    given = node.args
    first = [each.arg for each in [*given.posonlyargs, *given.args]]
    shown = [name for name in first if name not in ("self", "cls")]
    optional = len(given.defaults)
    shown = [f"{name}=..." if place >= len(shown) - optional else name for place, name in enumerate(shown)]
    shown += [f"*{given.vararg.arg}"] if given.vararg else ["*"] * bool(given.kwonlyargs)
    shown += [
        each.arg if default is None else f"{each.arg}=..."
        for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    shown += [f"**{given.kwarg.arg}"] if given.kwarg else []
    return f"({', '.join(shown)})"


def _summary(node: Any) -> str:
    return (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")


def pages() -> dict[str, str]:
    """All pages by file name. Raises ValueError naming what says nothing of itself."""
    made = command_pages() | grpc_pages() | {"python.md": python_page()}
    silent = [
        f"{name}: {row}" for name, text in made.items() for row in re.findall(r"^\|.*\|  \|$", text, re.MULTILINE)
    ]
    if silent:
        raise ValueError(f"without a help text, a comment or a docstring: {', '.join(silent)}")
    return made


def main() -> int:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    made = pages()
    kept = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")} if PAGES.is_dir() else {}
    if check:
        differing = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
        if differing:
            print(f"docs/reference: {', '.join(differing)}: out of date; run: make reference", file=sys.stderr)
        return 1 if differing else 0
    PAGES.mkdir(exist_ok=True)
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    for name in kept.keys() - made.keys():
        (PAGES / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
