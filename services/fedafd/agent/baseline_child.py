"""Child of the agent that trains the baseline in its background: `python -m fedafd.agent.baseline_child`.

Its first line of standard input is agent.yaml as JSON; when the input ends its parent is gone, and it ends, too. On its
standard output goes a line of JSON for each round done, or for what was wrong. It gets the processor when nobody else
wants it, and is the first to be ended where memory runs out.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import FedafdError

__all__ = ["main"]

_OOM_SCORE = Path("/proc/self/oom_score_adj")


def main() -> int:
    """Train until the baseline is as far as the federated model; returns the exit code."""
    _stand_back()
    config = AgentConfig.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import torch

    from fedafd.agent.baseline import AHEAD, advance

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        advance(config, ahead=AHEAD, done=lambda done, target: _tell(done=done, target=target))
    except FedafdError as error:
        _tell(code=error.code, reason=str(error))
        return 1
    return 0


def _stand_back() -> None:
    os.nice(19)
    # Linux: not one step while a round can take it. Elsewhere niceness has to do.
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        _OOM_SCORE.write_text("1000", encoding="ascii")


def _end_with_parent() -> None:
    # Not through the buffer: a thread that waits in it keeps the interpreter from ending in good order.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


def _tell(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
