"""What the demo and `round watch` show: a line per finished round, and the present round, its clients and stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedafd.cli.remote.outcome import delivered_words, duration_words, missing_words, round_seconds
from fedafd.client.answers import Finding, Participation, RoundDetails, Stage
from fedafd.domain.plain_text import plain_text

__all__ = ["RoundView"]

_COLOURS = {"delivered": "green", "done": "green", "completed": "green", "rejected": "red", "failed": "red"}
_STAGE_WORDS = {
    "prepare": "train the global model on the public set, encode it",
    "fold": "fold uploads into the ensemble",
    "weigh": "weigh the clients",
    "merge": "merge ensembles",
    "distil": "distil the ensemble into the global model",
    "evaluate": "evaluate and publish",
}
_SAID_AGAIN_SECONDS = 60
_MOST_SHOWN = 6
"""At work in one line."""


class RoundView:
    """Shows rounds as REST tells them. Without a terminal it prints a line per change of state, and one a minute."""

    def __init__(
        self, console: Console, numbers: Sequence[int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`numbers`: those of the rounds that are shown, in order; each is named with its place among them."""
        self._console = console
        self._numbers = list(numbers)
        self._live: Live | None = None
        self._said: tuple[int, str] | None = None
        self._clock, self._said_at = clock, 0.0
        self._answer: RoundDetails | None = None
        self._waits: Finding | None = None

    @contextmanager
    def shown(self) -> Iterator[RoundView]:
        """Draw while the block runs."""
        if not self._console.is_terminal:
            yield self
            return
        # Drawn anew each time, so that its clock ticks while nothing comes from the server.
        drawn = Live(console=self._console, get_renderable=self._current, refresh_per_second=4, transient=True)
        with drawn as self._live:
            yield self
        self._live = None

    def update(self, answer: RoundDetails) -> None:
        """Show the round as it is now."""
        self._answer = answer
        if self._live is not None:
            return
        said = (int(answer["number"]), str(answer["state"]))
        now = self._clock()
        if said != self._said:
            self._said, self._said_at = said, now
            self._console.print(Text(f"{self._name(said[0])}: {said[1]}"))
        elif now - self._said_at >= _SAID_AGAIN_SECONDS and (doing := _doing(answer)):
            self._said_at = now
            self._console.print(Text(f"{self._name(said[0])}: {said[1]}: {doing}"), soft_wrap=True)

    def waits(self, finding: Finding) -> None:
        """What the round waits for, as the control plane's status tells it; told where somebody has to do something."""
        is_due = finding["level"] != "fine" and bool(finding["remedy"])
        self._waits = finding if is_due else None
        if is_due and self._live is None:
            self._console.print(self._remedy(finding), highlight=False, soft_wrap=True)

    def _remedy(self, finding: Finding) -> Text:
        return Text(plain_text(f"{finding['words']}; {finding['remedy']}"), style="yellow")

    def finished(self, answer: RoundDetails) -> None:
        """Say what a completed round brought, and who is missing in it."""
        metrics, seconds, missing = answer["metrics"] or {}, round_seconds(answer), missing_words(answer)
        said = Text.assemble(
            (self._name(answer["number"]), "green"),
            ("" if seconds is None else f" in {duration_words(seconds)}") + ": server rsum ",
            (_score(metrics, "rsum"), "bold"),
            f", R@1 {_score(metrics, 'i2t_r1')} / {_score(metrics, 't2i_r1')}; {plain_text(delivered_words(answer))}",
            ("; " if missing else ""),
            (plain_text(missing), "yellow"),
        )
        self._console.print(said, soft_wrap=True)

    def _name(self, number: int) -> str:
        """`round 2 of 3`; `round 5 (2 of 3)` where the rounds do not start at 1; `round 5` where it is alone."""
        count = len(self._numbers)
        position = self._numbers.index(number) + 1 if number in self._numbers else number
        if position == number:
            return f"round {number} of {count}"
        return f"round {number} ({position} of {count})" if count > 1 else f"round {number}"

    def _current(self) -> RenderableType:
        return Text() if self._answer is None else self._render(self._answer)

    def _render(self, answer: RoundDetails) -> RenderableType:
        seconds = round_seconds(answer)
        took = "" if seconds is None else f"  {duration_words(seconds)}"
        name = self._name(answer["number"])
        title = Text.assemble((name.capitalize(), "bold"), f"  {answer['state']}{took}")
        table = Table.grid(padding=(0, 2))
        for stage in answer["stages"]:
            if stage["kind"] not in ("fold", "weigh", "merge"):
                words = stage["activity"] if stage["state"] == "running" else None
                table.add_row("server", *_row(stage, words or _STAGE_WORDS[stage["kind"]]))
        for part in answer["participations"]:
            table.add_row(Text(part["client"], style="cyan"), *_row(part, part["reason"] or part["activity"] or ""))
        if self._waits is not None and self._waits["round"] == answer["number"]:
            return Group(title, self._remedy(self._waits), table)
        return Group(title, table)


def _doing(answer: RoundDetails) -> str:
    """Who works on what, and how far that is."""
    at_work: list[tuple[str, str | None, float | None]] = [
        ("server", stage["activity"] or _STAGE_WORDS[stage["kind"]], stage["progress"])
        for stage in answer["stages"]
        if stage["state"] == "running"
    ]
    at_work += [
        (p["client"], p["activity"], p["progress"]) for p in answer["participations"] if p["state"] == "training"
    ]
    shown = [f"{who} {words or 'works'}, {100 * (share or 0.0):.0f} %" for who, words, share in at_work[:_MOST_SHOWN]]
    more = [f"and {len(at_work) - _MOST_SHOWN} more"] if len(at_work) > _MOST_SHOWN else []
    return plain_text("; ".join(shown + more))


def _score(metrics: Mapping[str, float | None], name: str) -> str:
    value = metrics.get(name)
    return "-" if value is None else f"{value:.1f}"


def _row(item: Participation | Stage, words: str) -> tuple[RenderableType, ...]:
    state = str(item["state"])
    share = 1.0 if state in ("done", "delivered") else float(item["progress"] or 0.0)
    colour = _COLOURS.get(state, "yellow")
    return (
        ProgressBar(total=1.0, completed=share, width=24),
        Text(state, style=colour),
        Text(plain_text(words)[:70], style="dim"),
    )
