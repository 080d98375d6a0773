"""What people read: tables and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import typer
from rich.table import Table
from rich.text import Text

from fedafd.cli.console import console_for
from fedafd.domain.plain_text import plain_text

__all__ = ["percent", "print_fields", "print_line", "print_table", "short_time"]


def print_line(text: str, *, err: bool = False) -> None:
    """A line of text that others wrote a part of, without what a terminal obeys. `err`: on standard error."""
    typer.echo(plain_text(text), err=err)


def percent(share: float | None) -> str:
    """A share from 0 to 1 as `40%`; a dash for none, which is what JSON makes of what is no number."""
    return "-" if share is None else f"{share:.0%}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """A table without frames, or the line `empty` if there is no row."""
    if not rows:
        typer.echo(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    console_for().print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """One `name  value` per line."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(Text(plain_text(name), style="bold"), _text(value))
    console_for().print(table)


def short_time(text: str | None) -> str:
    """A moment in local time, to the second; a dash for none."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else "-"


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return plain_text(str(cell))
