"""A distiller on a machine whose clock is SKEWED_SECONDS ahead, or behind if that is negative."""

from __future__ import annotations

import os
import time

_AHEAD_SECONDS = float(os.environ["SKEWED_SECONDS"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _AHEAD_SECONDS
time.time_ns = lambda: _time_ns() + int(_AHEAD_SECONDS * 1e9)

from fedafd.distiller import worker  # noqa: E402 - after the clock

if __name__ == "__main__":
    raise SystemExit(worker.main())
