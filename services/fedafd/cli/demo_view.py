"""What the demo shows while it runs: a line per finished round, and the present round with its clients and stages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["RoundView"]

_COLOURS = {"delivered": "green", "done": "green", "completed": "green", "rejected": "red", "failed": "red"}
_STAGE_WORDS = {
    "prepare": "train the global model on the public set, encode it",
    "fold": "fold uploads into the ensemble",
    "merge": "merge ensembles",
    "distil": "distil the ensemble into the global model",
    "evaluate": "evaluate and publish",
}


class RoundView:
    """Shows rounds as REST tells them. Without a terminal it prints a line per change of state instead."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._live: Live | None = None
        self._said: tuple[int, str] | None = None
        self._started = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[RoundView]:
        """Draw while the block runs."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield self
        self._live = None

    def update(self, answer: Mapping[str, Any]) -> None:
        """Show the round as it is now."""
        if self._live is not None:
            self._live.update(self._render(answer))
            return
        said = (int(answer["number"]), str(answer["state"]))
        if said != self._said:
            self._said = said
            self._console.print(f"round {said[0]} of {self._rounds}: {said[1]}", highlight=False)

    def finished(self, answer: Mapping[str, Any], seconds: float) -> None:
        """Say what a completed round brought."""
        metrics = answer["metrics"]
        delivered = [part["client"] for part in answer["participations"] if part["state"] == "delivered"]
        self._console.print(
            f"[green]round {answer['number']} of {self._rounds}[/] in {seconds:.0f} s: server rsum"
            f" [bold]{metrics['rsum']:.1f}[/], R@1 {metrics['i2t_r1']:.1f} / {metrics['t2i_r1']:.1f};"
            f" delivered: {', '.join(delivered) or 'none'}",
            highlight=False,
        )

    def _render(self, answer: Mapping[str, Any]) -> RenderableType:
        seconds = time.monotonic() - self._started
        title = Text.assemble(
            (f"Round {answer['number']} of {self._rounds}", "bold"), f"  {answer['state']}  {seconds:.0f} s"
        )
        table = Table.grid(padding=(0, 2))
        for stage in answer["stages"]:
            if stage["kind"] not in ("fold", "merge"):
                words = stage["activity"] if stage["state"] == "running" else None
                table.add_row("server", *_row(stage, words or _STAGE_WORDS[stage["kind"]]))
        for part in answer["participations"]:
            table.add_row(f"[cyan]{part['client']}[/]", *_row(part, part["activity"] or part["reason"] or ""))
        return Group(title, table)


def _row(item: Mapping[str, Any], words: str) -> tuple[RenderableType, ...]:
    state = str(item["state"])
    share = 1.0 if state in ("done", "delivered") else float(item["progress"] or 0.0)
    colour = _COLOURS.get(state, "yellow")
    return ProgressBar(total=1.0, completed=share, width=24), f"[{colour}]{state}[/]", Text(words[:70], style="dim")
