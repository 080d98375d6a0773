"""A distiller that ends by SIGKILL in the middle of its work, as one does whose machine runs out of memory.

DOOMED_MARKS names a folder. Each kind of stage kills one process, at a step in the middle if it makes steps, else after
its work and before its outputs are stored; one more dies after storing outputs and before completing the stage, and one
when it is given the next stage. What has killed lies in the folder and kills no more. With DOOMED_ALWAYS every try at
that kind of stage kills. DOOMED_SIGNAL is another signal than SIGKILL to die of. DOOMED_STEPS names a folder in which
each kind of stage writes a line before each step.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

from fedafd.distiller import tasks, worker
from fedafd.distiller.client import DistillationClient
from fedafd.distiller.stages import StageResult, StageWork, run_stage
from fedafd.proto.v1 import distillation_pb2 as pb

MARKS = Path(os.environ["DOOMED_MARKS"])
ALWAYS = os.environ.get("DOOMED_ALWAYS")
SIGNAL = signal.Signals[os.environ.get("DOOMED_SIGNAL", "SIGKILL")]
STEPS = os.environ.get("DOOMED_STEPS")
_complete = DistillationClient.complete


def _due(what: str) -> bool:
    return what == ALWAYS if ALWAYS else not (MARKS / what).exists()


def _die(what: str) -> None:
    (MARKS / what).touch()
    os.kill(os.getpid(), SIGNAL)


def _doomed_stage(work: StageWork) -> StageResult:
    what = work.kind.value

    def progress(fraction: float, activity: str) -> None:
        work.progress(fraction, activity)
        if STEPS:
            with (Path(STEPS) / what).open("a", encoding="utf-8") as file:
                file.write(f"{activity}\n")
        if _due(what) and fraction >= 0.3:
            _die(what)

    result = run_stage(dataclasses.replace(work, progress=progress))
    if _due(what):
        _die(what)
    return result


def _doomed_complete(self: DistillationClient, *arguments: Any, **options: Any) -> pb.CompleteStageResponse:
    if _due("complete"):
        _die("complete")
    answer = _complete(self, *arguments, **options)
    if answer.HasField("next") and _due("given"):
        _die("given")
    return answer


tasks.run_stage = _doomed_stage  # type: ignore[attr-defined]
DistillationClient.complete = _doomed_complete  # type: ignore[method-assign]

if __name__ == "__main__":
    raise SystemExit(worker.main())
