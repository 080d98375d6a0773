"""Start-up of the command line: `fedafd --help`, against one that loads torch at its start."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import Clock, Ratio, Report, interleaved

_MAIN = "from fedafd.cli.main import main; import sys; sys.argv = ['fedafd', '--help']; main()"


def run(*, tiny: bool, repeats: int, clock: Clock) -> list[Report]:
    """Wall time whatever the clock: the work is another process's."""
    del clock
    ways = {"fedafd --help": _MAIN, "with torch at the start": f"import torch; {_MAIN}"}
    calls = {name: lambda c=code: _call(c) for name, code in ways.items()}
    times = interleaved(calls, 1 if tiny else max(repeats, 5), warm_up=not tiny)
    seconds = times["fedafd --help"].median("wall")
    for each in times.values():
        each.cpu[:] = each.wall
    return [Report("startup", "fedafd --help", times, [Ratio("seconds until it has answered", seconds, at_most=0.5)])]


def _call(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
