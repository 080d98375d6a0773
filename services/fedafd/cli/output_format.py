"""In which form a command answers: for people, or as JSON or YAML for scripts."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml
from pydantic_core import to_jsonable_python
from typer.core import TyperCommand

from fedafd.domain.plain_text import OBEYED

__all__ = ["AnswerCommand", "Output", "OutputBesideFile", "OutputFormat", "print_answer", "print_entry"]


class OutputFormat(StrEnum):
    """The forms."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"

    @property
    def is_data(self) -> bool:
        """For a program to read."""
        return self is not OutputFormat.TABLE


Output = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="table for people; json (or --json) or yaml for scripts.")
]
OutputBesideFile = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="table for people; json or yaml for scripts, printed.")
]
"""Of a command whose `--json` names a file."""


class AnswerCommand(TyperCommand):
    """A command with `--output`; `--json` is short for `--output json`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, the short form spelt out."""
        return super().parse_args(ctx, ["--output=json" if arg == "--json" else arg for arg in args])


def print_answer(answer: Any, output: OutputFormat) -> None:
    """`answer` on standard output, as JSON or YAML; a number that is none of JSON's (NaN, infinity) is null."""
    plain = to_jsonable_python(answer, inf_nan_mode="null")
    if output is OutputFormat.YAML:
        typer.echo(_as_yaml(plain, explicit_start=False), nl=False)
    else:
        typer.echo(json.dumps(plain, indent=2))


def print_entry(entry: Any, output: OutputFormat) -> None:
    """One of a stream that goes on: a line of JSON, or a document of YAML."""
    plain = to_jsonable_python(entry, inf_nan_mode="null")
    if output is OutputFormat.YAML:
        typer.echo(_as_yaml(plain, explicit_start=True), nl=False)
    else:
        typer.echo(json.dumps(plain))


def _as_yaml(plain: Any, *, explicit_start: bool) -> str:
    """As people write it; with escapes, as JSON has them, where a mark in it would turn a terminal's writing around."""
    text = _dumped(plain, allow_unicode=True, explicit_start=explicit_start)
    is_plain = not any(OBEYED.search(line) for line in text.split("\n"))
    return text if is_plain else _dumped(plain, allow_unicode=False, explicit_start=explicit_start)


def _dumped(plain: Any, *, allow_unicode: bool, explicit_start: bool) -> str:
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=allow_unicode, explicit_start=explicit_start)
    return text
