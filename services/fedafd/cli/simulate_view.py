"""What `fedafd simulate` shows at work: bars, and a table of the runs that are done; lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from fedafd.cli.remote.outcome import duration_words
from fedafd.cli.simulate_left import TimeLeft
from fedafd.cli.simulate_table import done_figures, done_table

if TYPE_CHECKING:
    from fedafd.simulation.experiment import ExperimentConfig, RunKey
    from fedafd.simulation.summary import Row
    from fedafd.simulation.worker import Now

__all__ = ["SimulationView"]

_FIRST_LINE_SECONDS, _LINE_SECONDS = 10.0, 30.0


class SimulationView:
    """Shows how far the runs are, and how long they may still take: bars on `console`, lines on `lines`."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        output: Path,
        console: Console,
        lines: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._runs, self._rounds, self._output = experiment.runs(), experiment.rounds, output
        self._console, self._lines = console, lines
        self._next_line = clock() + _FIRST_LINE_SECONDS
        self._at_work: dict[RunKey, TaskID] = {}
        self._time_left = TimeLeft(self._runs, self._done())
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[words]}", style="dim"),
            console=console,
        )
        self._rows: dict[RunKey, Row] = {}
        self._live = Live(get_renderable=self._drawn, console=console, refresh_per_second=2, transient=True)
        self._whole = self._bars.add_task(f"[bold]{escape(experiment.name)}[/]", total=len(self._runs), words="")

    @contextmanager
    def shown(self) -> Iterator[SimulationView]:
        """Draw while the block runs, if there is a terminal."""
        if not self._console.is_terminal:
            yield self
            return
        with self._live:
            yield self

    def _drawn(self) -> Group:
        """The bars, and the means of what is done below them."""
        table = done_table(list(self._rows.values()), self._runs)
        return Group(self._bars, table) if table is not None else Group(self._bars)

    def refresh(self) -> None:
        """Draw now."""
        self._live.refresh()

    def say(self, text: str) -> None:
        """A line above the bars."""
        console = self._console if self._console.is_terminal else self._lines
        console.print(Text(text), soft_wrap=True)

    def update(self, now: dict[RunKey, Now]) -> None:
        """Show what each run at work does."""
        done = self._done()
        self._rows |= done_figures(self._output, [key for key in done if key not in self._rows])
        now = {key: at for key, at in now.items() if key not in done}
        for key in [key for key in self._at_work if key not in now]:
            self._bars.remove_task(self._at_work.pop(key))
            if key in done:
                self.say(f"{key.name}: done{self._in_figures(key)}")
        for key, at in now.items():
            if key not in self._at_work:
                self._at_work[key] = self._bars.add_task(escape(key.name), total=1.0, words="")
            line = f"round {at.round} of {self._rounds}, {at.activity}"
            self._bars.update(self._at_work[key], completed=at.share, words=escape(line))
        whole = len(done) + sum(at.share for at in now.values())
        seconds = self._time_left.seconds(self._clock(), done, now)
        left = "time left not known yet" if seconds is None else f"about {duration_words(seconds)} left"
        words = f"{len(done)} of {len(self._runs)} runs done, {left}"
        self._bars.update(self._whole, completed=whole, words=words)
        if not self._console.is_terminal and self._clock() >= self._next_line:
            self._next_line = self._clock() + _LINE_SECONDS
            self.say(f"{words} ({whole / len(self._runs):.0%})")
            for key, at in now.items():
                self.say(f"  {key.name}: round {at.round} of {self._rounds}, {at.activity} ({at.share:.0%})")

    def _in_figures(self, key: RunKey) -> str:
        row = self._rows.get(key)
        return "" if row is None else ", " + ", ".join(f"{name} {value:.1f}" for name, value in row.values.items())

    def _done(self) -> list[RunKey]:
        return [key for key in self._runs if (self._output / key.folder / "result.json").exists()]
