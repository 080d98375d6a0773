"""The distiller as it is, which writes down how long the arithmetic of each stage takes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

__all__ = ["WORK_FILE", "work_of"]

WORK_FILE = "FEDAFD_BENCHMARK_WORK"
"""Variable that names the file."""


def work_of(path: Path, federation: str, number: int) -> dict[str, float]:
    """Seconds of arithmetic in a round, by kind of stage."""
    seconds: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        done = json.loads(line)
        if (done["federation"], done["round"]) == (federation, number):
            seconds[done["kind"]] = seconds.get(done["kind"], 0.0) + done["seconds"]
    return seconds


def main() -> int:
    """Run the distiller, timing."""
    from fedafd.distiller import stages, tasks, worker

    path = Path(os.environ[WORK_FILE])

    def timed(work: stages.StageWork) -> stages.StageResult:
        started = time.monotonic()
        result = stages.run_stage(work)
        done = {"federation": work.federation_id, "round": work.round_number, "kind": work.kind.value}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done | {"seconds": time.monotonic() - started}) + "\n")
        return result

    tasks.run_stage = timed  # type: ignore[attr-defined]
    return worker.main()


if __name__ == "__main__":
    raise SystemExit(main())
