"""An agent that SIGKILLs itself at a place that DYING_AT names, and notes each step of DP-SGD in STEPS before it.

`account`: the steps are written down, the ledger's entry is not. `step`: in the second step. Anything else: it lives.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from fedafd.agent import main as agent_main
from fedafd.agent import privacy_account
from fedafd.learning import private_steps

_AT, _STEPS = os.environ["DYING_AT"], Path(os.environ["STEPS"])
_STEP = 2


def _die(place: str) -> None:
    if place == _AT:
        os.kill(os.getpid(), signal.SIGKILL)


def _dying_write(*arguments: Any, **named: Any) -> None:
    _write(*arguments, **named)
    _die("account")


def _dying_step(self: private_steps.PrivateGradient, batch: Any, where: Any) -> Any:
    with _STEPS.open("a") as file:
        file.write(".")
    placed = _take(self, batch, where)
    if _STEPS.stat().st_size >= _STEP:
        _die("step")
    return placed


_write, privacy_account.write_atomically = privacy_account.write_atomically, _dying_write  # type: ignore[attr-defined]
_take, private_steps.PrivateGradient.set_gradients = private_steps.PrivateGradient.set_gradients, _dying_step  # type: ignore[method-assign]

if __name__ == "__main__":
    agent_main.main()
