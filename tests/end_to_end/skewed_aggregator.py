"""An aggregator on a machine whose clock is SKEWED_SECONDS ahead, or behind if that is negative."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

_AHEAD_SECONDS = float(os.environ["SKEWED_SECONDS"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _AHEAD_SECONDS
time.time_ns = lambda: _time_ns() + int(_AHEAD_SECONDS * 1e9)

from fedafd.aggregator import server  # noqa: E402 - after the clock
from fedafd.persistence import clock  # noqa: E402

clock._wall = lambda: datetime.now(UTC) + timedelta(seconds=_AHEAD_SECONDS)

if __name__ == "__main__":
    raise SystemExit(server.main())
