"""Many agents at the price of one start: forked from a process that has imported what they all need.

`python -m tests.end_to_end.nursery FOLDER` runs an agent for each `*.yaml` of the folder, with the enrolment token in
the `*.token` beside it. Each is a process of its own that does what `fedafd.agent.main` does; all end with this one.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import sys
from pathlib import Path

from fedafd.agent.main import start_agent

_ALL_NEED = (
    "fedafd.agent.metrics",
    "fedafd.agent.runner",
    "fedafd.agent.site",
    "fedafd.agent.start",
    "fedafd.learning.fedavg",
    "fedafd.learning.client_round",
    "fedafd.learning.feature_cache",
    "fedafd.learning.personalized_export",
    "transformers.models.resnet.modeling_resnet",
)
_PR_SET_PDEATHSIG = 1


def _agent(file: Path) -> int:
    """Become the agent of that file."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ["FEDAFD_AGENT_ENROLMENT_TOKEN_FILE"] = str(file.with_suffix(".token"))
    return start_agent(file)


def main() -> int:
    """Fork them all, and wait."""
    for name in _ALL_NEED:
        importlib.import_module(name)
    gc.freeze()  # else a collection in a child copies the pages that they share
    for file in sorted(Path(sys.argv[1]).glob("*.yaml")):
        if os.fork() == 0:
            os._exit(_agent(file))
    return max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in Path(sys.argv[1]).glob("*.yaml"))


if __name__ == "__main__":
    raise SystemExit(main())
