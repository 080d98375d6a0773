"""A distiller on a machine whose clock is SKEWED_SECONDS ahead, or behind if that is negative."""

from __future__ import annotations

import importlib
import os
import time
from types import SimpleNamespace
from typing import Any

_AHEAD_SECONDS = float(os.environ["SKEWED_SECONDS"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _AHEAD_SECONDS
time.time_ns = lambda: _time_ns() + int(_AHEAD_SECONDS * 1e9)

# gRPC's core reads the machine's clock, and its Python part must give it times of the same one.
_channel: Any = importlib.import_module("grpc._channel")
_channel.time = SimpleNamespace(**vars(time) | {"time": _time})

from fedafd.distiller import worker  # noqa: E402 - after the clock

if __name__ == "__main__":
    raise SystemExit(worker.main())
