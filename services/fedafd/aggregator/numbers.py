"""Numbers of requests: what is none is refused where it enters, so that no row, page or answer shows one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedafd.domain.errors import InvalidRequestError
from fedafd.domain.plain_text import plain_text

__all__ = ["check_finite"]

_LONGEST_NAME = 100


def check_finite(metrics: Mapping[str, float]) -> None:
    """Raise InvalidRequestError, with the metric's name, for NaN and the infinities."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise InvalidRequestError(
                f"metric {plain_text(name)[:_LONGEST_NAME]} is {value}; metrics must be finite numbers"
            )
