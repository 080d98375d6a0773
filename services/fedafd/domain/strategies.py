"""Strategies: named sets of values of `federation.yaml`, so that methods are compared as configuration, not as forks.

A value that the file sets itself wins over its strategy, a strategy over the preset. Further strategies come from the
entry points of the group `fedafd.strategies`, each a mapping of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

__all__ = ["ABLATIONS", "STRATEGIES", "strategy_names", "strategy_values"]

GROUP = "fedafd.strategies"

_ALONE: dict[str, Any] = {"alignment": {"mode": "off"}, "fusion": {"mode": "off"}, "distillation": {"enabled": False}}

STRATEGIES: dict[str, dict[str, Any]] = {
    # FedAFD, arXiv 2603.04890: alignment, fusion, similarity-guided ensemble distillation.
    "fedafd": {},
    # CreamFL, arXiv 2302.08888: inter- and intra-modal contrast at the client, contrastive weights at the server.
    "creamfl": {
        "alignment": {"mode": "contrastive"},
        "fusion": {"mode": "off"},
        "distillation": {"ensemble": "contrastive", "self_share": 0.0, "weight_cap": None},
    },
    # FedMD, arXiv 1910.03581, with representations in place of class scores: digest the consensus, mean of clients.
    "fedmd": {
        "alignment": {"mode": "digest"},
        "fusion": {"mode": "off"},
        "distillation": {"ensemble": "mean", "self_share": 0.0},
    },
    # FedAvg, arXiv 1602.05629, among clients of one kind, encoder and label set; the server learns by itself.
    "fedavg": {**_ALONE, "averaging": "weights", "client": {"vocabulary": "public"}},
    # No federation: every client and the server by itself.
    "local": _ALONE,
    # No federation either, but the server distils its own representations: what FedAFD's share of them does alone.
    "self-distillation": {**_ALONE, "distillation": {"self_share": 1.0}},
    # The frozen global model alone: clients train a head on its features, pair clients nothing.
    "probe": {**_ALONE, "fusion": {"mode": "global"}},
}

ABLATIONS: dict[str, dict[str, Any]] = {
    "fedafd-no-alignment": {"alignment": {"mode": "off"}},
    "fedafd-adversarial": {"alignment": {"mode": "adversarial"}},
    "fedafd-pairing": {"alignment": {"mode": "pairing"}},
    "fedafd-no-fusion": {"fusion": {"mode": "off"}},
    "fedafd-no-alone-branch": {"fusion": {"alone_branch": False}},
    "fedafd-tokens": {"fusion": {"mode": "tokens"}},
    "fedafd-mean": {"distillation": {"ensemble": "mean"}},
    "fedafd-no-self": {"distillation": {"self_share": 0.0}},
    "fedafd-no-distillation": {"distillation": {"enabled": False}},
}
"""FedAFD less or other than one of its parts."""


def strategy_names() -> list[str]:
    """Names of all strategies: built in, ablations, and entry points of the group `fedafd.strategies`."""
    return sorted({*STRATEGIES, *ABLATIONS, *_installed()})


def strategy_values(name: str) -> Mapping[str, Any]:
    """What a strategy sets. Raises ValueError naming those that are known."""
    for table in (STRATEGIES, ABLATIONS):
        if name in table:
            return table[name]
    point = _installed().get(name)
    if point is not None:
        values: Mapping[str, Any] = point.load()
        return values
    raise ValueError(f"strategy {name!r} is not known; installed: {', '.join(strategy_names())}")


@cache
def _installed() -> Mapping[str, EntryPoint]:
    """Strategies of other packages; looked up once in a process, because it reads the files of every package."""
    return {point.name: point for point in entry_points(group=GROUP)}
