"""A distiller on a machine whose clock is two hours ahead."""

from __future__ import annotations

import time

_AHEAD_SECONDS = 7200.0
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _AHEAD_SECONDS
time.time_ns = lambda: _time_ns() + int(_AHEAD_SECONDS * 1e9)

from fedafd.distiller import worker  # noqa: E402 - after the clock

if __name__ == "__main__":
    raise SystemExit(worker.main())
