"""The distiller as it is, which writes down how long the arithmetic of each stage takes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["WORK_FILE", "Work", "seconds_by_kind", "work_of"]

WORK_FILE = "FEDAFD_BENCHMARK_WORK"
"""Variable that names the file."""


@dataclass(frozen=True)
class Work:
    """The arithmetic of one stage; moments in seconds since the epoch."""

    kind: str
    began: float
    ended: float


def work_of(path: Path, federation: str, number: int) -> list[Work]:
    """The stages of a round, in the order of their ends."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    done = (json.loads(line) for line in lines)
    return [Work(**each["work"]) for each in done if (each["federation"], each["round"]) == (federation, number)]


def seconds_by_kind(stages: Iterable[Work]) -> dict[str, float]:
    """Seconds of arithmetic, by kind of stage."""
    seconds: dict[str, float] = {}
    for each in stages:
        seconds[each.kind] = seconds.get(each.kind, 0.0) + each.ended - each.began
    return seconds


def main() -> int:
    """Run the distiller, timing."""
    from fedafd.distiller import stages, tasks, worker

    path = Path(os.environ[WORK_FILE])

    def timed(work: stages.StageWork) -> stages.StageResult:
        began = time.time()
        result = stages.run_stage(work)
        done = asdict(Work(work.kind.value, began, time.time()))
        line = json.dumps({"federation": work.federation_id, "round": work.round_number, "work": done})
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return result

    tasks.run_stage = timed  # type: ignore[attr-defined]
    return worker.main()


if __name__ == "__main__":
    raise SystemExit(main())
