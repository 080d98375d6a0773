"""Many rounds with random faults: nothing grows but what each round adds, and the last model has the calm run's bits.

`make soak` runs 40 rounds; a week of training in compressed time, as the models are tiny and everything else is real.
Faults and moments come from a seed. After each round it measures memory and file handles of the services, rows of the
database, objects and bytes of the store, and bytes of the sites' folders. It exits with 1 if one of them grows.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from tests.end_to_end.fault_matrix import FAULTS, run_line
from tests.end_to_end.fault_scene import Scene
from tests.end_to_end.federation import KINDS
from tests.end_to_end.soaked import Soaked, record

__all__ = ["Measured", "grown", "measure"]

_WARM_ROUNDS = 3
"""A process may grow in its first rounds: caches fill, code is loaded."""
_MOST_GROWTH = {"memory": 64 << 20, "handles": 12}
"""Of one process after that, however many rounds it serves."""
_MOST_RATIO = 1.5
"""What a round adds at the end, to what one added in the beginning; faults add events and repeated stages."""
_SERVICES = ("control-plane", "aggregator", "distiller")


@dataclass(frozen=True)
class Measured:
    """What there was after a round. `processes`: (name, pid) -> resident bytes, file handles."""

    processes: dict[tuple[str, int], tuple[int, int]]
    rows: int
    objects: int
    store_bytes: int
    site_bytes: int


def measure(scene: Scene) -> Measured:
    """Look at everything that could grow."""
    processes = {}
    for child in scene.supervisor.children:
        place = Path("/proc") / str(child.process.pid)
        if child.name in _SERVICES or child.name.startswith("agent-"):
            resident = int((place / "statm").read_text().split()[1]) * 4096
            processes[child.name, child.process.pid] = resident, len(list((place / "fd").iterdir()))
    sizes = [path.stat().st_size for path in _files(scene.folder / "store")]
    # Without the cache of downloads, which has a limit of its own, far above what a soak test downloads.
    kept = (path for name in KINDS for path in _files(scene.folder / name) if "artifacts" not in path.parts)
    sites = sum(path.stat().st_size for path in kept)
    return Measured(processes, _rows(scene.folder / "fedafd.db"), len(sizes), sum(sizes), sites)


def grown(history: Sequence[Measured]) -> list[str]:
    """What grew by more than it may, in words."""
    found = []
    for key in sorted({key for each in history for key in each.processes}):
        lived = [each.processes[key] for each in history if key in each.processes]
        for index, (what, most) in enumerate(_MOST_GROWTH.items()):
            warm = [values[index] for values in lived[_WARM_ROUNDS:]]
            if warm and warm[-1] - warm[0] > most:
                found.append(f"{what} of {key[0]}: {warm[0]} to {warm[-1]} in {len(warm)} rounds")
    for what in ("rows", "objects", "store_bytes"):
        totals = [getattr(each, what) for each in history]
        added = [later - earlier for earlier, later in pairwise(totals)]
        half = len(added) // 2
        if half and sum(added[-half:]) > _MOST_RATIO * sum(added[:half]):
            found.append(f"{what} that a round adds: {sum(added[:half]) // half}, later {sum(added[-half:]) // half}")
    # A site keeps the last two states and its model: from the third round on no more of them.
    sites = [each.site_bytes for each in history[_WARM_ROUNDS:]]
    if sites and sites[-1] > _MOST_RATIO * sites[0]:
        found.append(f"bytes of the sites' folders: {sites[0]} to {sites[-1]}")
    return found


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _rows(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sum(int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]) for name in names)


def _told(number: int, fault: str, moment: str, seconds: float, now: Measured) -> str:
    memory = ", ".join(f"{name} {rss >> 20} MiB/{fds}" for (name, _), (rss, fds) in now.processes.items())
    return (
        f"{number:3d} {fault} ({moment}) {seconds:.1f} s; {now.rows} rows, {now.objects} objects,"
        f" {now.store_bytes >> 10} KiB stored, {now.site_bytes >> 10} KiB at sites; {memory}\n"
    )


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="note the result there, for the page of make test-faults")
    arguments = parser.parse_args()
    # Kept if a round is red: what went wrong stands in the logs there.
    folder = Path(tempfile.mkdtemp(prefix="fedafd-soak-"))
    scene = Scene(folder)
    try:
        history = _rounds(scene, arguments.rounds, random.Random(arguments.seed))
    finally:
        scene.close()
    if history is None:
        return 1
    shutil.rmtree(folder)
    found = grown(history)
    if arguments.record is not None:
        record(
            arguments.record, Soaked(datetime.now(UTC).date().isoformat(), len(history), arguments.seed, tuple(found))
        )
    sys.stdout.write("\n".join(found or [f"{len(history)} rounds: every bit equal, nothing grows"]) + "\n")
    return 1 if found else 0


def _rounds(scene: Scene, count: int, drawn: random.Random) -> list[Measured] | None:
    """What there was after each round; None if one is red."""
    faults = [fault for fault in FAULTS if fault.scene is Scene]
    history: list[Measured] = []
    for number in range(1, count + 1):
        fault = drawn.choice(faults)
        line = run_line(scene, fault, drawn.choice(list(fault.moments)))
        if line.red:
            sys.stdout.write(f"round {number}: {line.fault}, {line.moment}: {line.red}\n")
            return None
        history.append(measure(scene))
        sys.stdout.write(_told(number, line.fault, line.moment, line.back_seconds, history[-1]))
        sys.stdout.flush()
    return history


if __name__ == "__main__":
    raise SystemExit(main())
