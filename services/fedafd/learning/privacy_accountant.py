"""What steps of DP-SGD have cost: Renyi differential privacy of the subsampled Gaussian mechanism, by Opacus.

Source: Mironov, Talwar, Zhang, arXiv 1908.10530. Neighbours are sets that differ by one sample more or less; each
sample is in a step by a draw of its own (Poisson sampling).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fedafd.domain.config import DpConfig, FederationConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind

__all__ = ["Spending", "epsilon_of", "epsilon_of_rounds"]


class Spending(NamedTuple):
    """Steps of one kind."""

    noise_multiplier: float
    sampling_rate: float
    steps: int


def epsilon_of(spent: Iterable[Spending], delta: float) -> float:
    """Epsilon at `delta` of all steps together, an upper bound; 0 for none.

    Raises ConfigurationError without Opacus.
    """
    # Each kind of step is counted once, however many rounds took such steps: counting takes a third of a second a kind.
    steps = dict[tuple[float, float], int]()
    for entry in spent:
        kind = (entry.noise_multiplier, entry.sampling_rate)
        steps[kind] = steps.get(kind, 0) + entry.steps
    history = [(*kind, count) for kind, count in steps.items() if count]
    if not history:
        return 0.0
    try:
        from opacus.accountants import RDPAccountant
    except ImportError:
        raise ConfigurationError(
            "privacy.dp: counting what training costs needs a library that is not here: pip install 'fedafd[privacy]'"
        ) from None
    accountant = RDPAccountant()
    accountant.history = history
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # an order at the border makes the bound looser, never wrong
        epsilon = float(accountant.get_epsilon(delta))
    return epsilon if math.isfinite(epsilon) else math.inf


def epsilon_of_rounds(dp: DpConfig, federation: FederationConfig, kind: ClientKind, rounds: int) -> float:
    """Epsilon of `rounds` rounds, 1 or more, of a client that starts without a state and takes part in all of them.

    Raises ConfigurationError without Opacus.
    """
    rate = dp.sampling_rate(federation.client.for_kind(kind).batch_size)
    first, later = (dp.steps_of_round(federation, kind, is_new=new) for new in (True, False))
    return epsilon_of([Spending(dp.noise_multiplier, rate, first + (rounds - 1) * later)], dp.delta)
