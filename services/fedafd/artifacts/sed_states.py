"""How the rows of an SED state are kept: in float16 where that loses nothing, in float32 where it would.

Clients send float16 by default, and the state of one client holds what it sent. So half of such a state's bytes would
be zeros, to be hashed, written, kept, read and hashed again.
Shape legend: N public samples, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["HALF_ROWS", "WEIGHTED_SUM", "rows_of"]

WEIGHTED_SUM = "weighted_sum"
"""The tensor of the rows [N, D] in float32."""

HALF_ROWS = "half_rows"
"""The tensor of the rows [N, D] in float16, in place of the other. A name of its own: a reader that does not know it
misses the other one, and says so, where it would compute in float16 otherwise."""


def rows_of(state: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """The rows [N, D] of a state's tensors, whichever way they are kept. Raises KeyError for a state without any."""
    return state[HALF_ROWS if HALF_ROWS in state else WEIGHTED_SUM].astype(np.float32, copy=False)
