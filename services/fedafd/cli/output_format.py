"""In which form a command answers: for people, or as JSON or YAML for scripts."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml

__all__ = ["Output", "OutputFormat", "print_answer"]


class OutputFormat(StrEnum):
    """The forms."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="table for people; json or yaml for scripts.")]


def print_answer(answer: Any, output: OutputFormat) -> None:
    """`answer` on standard output, as JSON or YAML."""
    if output is OutputFormat.YAML:
        typer.echo(yaml.safe_dump(answer, sort_keys=False, allow_unicode=True), nl=False)
    else:
        typer.echo(json.dumps(answer, indent=2))
