"""The table that grows while simulations run: test figures of the runs that are done, means over their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.table import Table

from fedafd.domain.errors import DataError

if TYPE_CHECKING:
    from fedafd.simulation.experiment import RunKey
    from fedafd.simulation.summary import Row

__all__ = ["done_figures", "done_table"]


def done_figures(output: Path, keys: Sequence[RunKey]) -> dict[RunKey, Row]:
    """The figures of finished runs; one that cannot be read is left to the report, which says why."""
    from fedafd.simulation.files import read_json
    from fedafd.simulation.summary import rows_of

    figures = {}
    for key in keys:
        try:
            figures[key] = rows_of([read_json(output / key.folder / "result.json")])[0]
        except (DataError, KeyError):
            continue
    return figures


def done_table(rows: Sequence[Row], runs: Sequence[RunKey]) -> Table | None:
    """A line for each strategy of a scenario, in the order of `runs`; None where nothing is done."""
    if not rows:
        return None
    measures = [name for name in rows[0].values if " own " not in name]
    table = Table(
        box=None, pad_edge=False, header_style="bold", title_justify="left", title="done so far, test figures"
    )
    for name in ("scenario", "strategy"):
        table.add_column(name)
    for name in ("seeds", *measures):
        table.add_column(name, justify="right")
    for scenario, strategy in dict.fromkeys((key.scenario, key.strategy) for key in runs):
        own = [row for row in rows if (row.scenario, row.strategy) == (scenario, strategy)]
        if own:
            wanted = sum((key.scenario, key.strategy) == (scenario, strategy) for key in runs)
            means = (fmean(row.values[name] for row in own if name in row.values) for name in measures)
            table.add_row(scenario, strategy, f"{len(own)} of {wanted}", *(f"{mean:.1f}" for mean in means))
    return table
