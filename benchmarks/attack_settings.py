"""Federations that attacks are measured in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tiny import TINY_FEDERATION
from fedafd.domain.kinds import ClientKind
from fedafd.domain.presets import merged
from fedafd.simulation.experiment import ExperimentConfig, read_experiment

__all__ = ["SETTINGS", "Setting"]

_SMALL: dict[str, Any] = {
    "preset": "small",
    "embedding_dim": 128,
    "image_encoder": {"image_size": 32},
    "text_encoder": {"options": {"embedding_size": 64, "hidden_size": 64}},
    "server": {"initial_passes": 20, "passes": 2, "learning_rate": 2e-3},
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A federation's configuration, and how many clients of each kind share the data."""

    name: str
    counts: Mapping[ClientKind, int]
    federation: Mapping[str, Any]
    parts: Mapping[ClientKind, int]
    """That the real data of a kind are cut into."""
    alpha: float = 0.5
    is_real: bool = True
    is_pretrained: bool = False
    is_attacked: bool = True
    """False: only how honest clients fare is looked at."""

    def experiment(
        self, *, tiny: bool, seed: int, data: Path | None, weights: Mapping[str, str] | None
    ) -> ExperimentConfig:
        """One seed of it, which distils from round 1 on. `data` None: generated; then `weights` are not read."""
        federation = merged(self.federation, {"distillation": {"start_round": 1}})
        federation = merged(federation, TINY_FEDERATION) if tiny else federation
        public, sources = _generated(tiny=tiny) if data is None or tiny or not self.is_real else _real(self.parts)
        clients = [
            {"kind": kind.value, "count": 3 if tiny and kind is ClientKind.PAIR else min(count, 2 if tiny else count)}
            | sources[kind]
            for kind, count in self.counts.items()
        ]
        values: dict[str, Any] = {
            "rounds": 1 if tiny else 2,
            "seeds": [seed],
            "federation": federation,
            "public": public,
            "clients": clients,
            "strategies": {"fedafd": {}},
            "scenarios": {"skewed": {"scheme": "dirichlet", "alpha": self.alpha}},
        }
        return read_experiment(None, values, data, weights=weights if self.is_pretrained else None)


def _generated(*, tiny: bool) -> tuple[dict[str, Any], dict[ClientKind, dict[str, Any]]]:
    size = 24 if tiny else 400
    options = {"num_train": size, "num_val": 8, "num_test": 8 if tiny else 200}
    public = {"adapter": "shapes", "options": options}
    return public, {
        kind: {"adapter": "shapes", "options": options | {"num_test": 8, "seed": place + 1}}
        for place, kind in enumerate(ClientKind)
    }


def _real(parts: Mapping[ClientKind, int]) -> tuple[dict[str, Any], dict[ClientKind, dict[str, Any]]]:
    """Flickr8k, CIFAR-100 and AG_NEWS; few public pairs, so that clients know what the server does not."""
    public = {"adapter": "flickr", "path": "flickr8k", "options": {"role": "public", "limit": 300}}
    return public, {
        ClientKind.IMAGE: {"adapter": "cifar100", "path": "cifar100", "parts": parts.get(ClientKind.IMAGE)},
        ClientKind.TEXT: {"adapter": "ag-news", "path": "ag_news_csv", "parts": parts.get(ClientKind.TEXT)},
        ClientKind.PAIR: {
            "adapter": "flickr",
            "path": "flickr8k",
            "parts": parts.get(ClientKind.PAIR),
            "options": {"role": "private", "limit": 1000},
        },
    }


_MIXED = {ClientKind.IMAGE: 3, ClientKind.TEXT: 3, ClientKind.PAIR: 4}
_PARTS = {ClientKind.IMAGE: 20, ClientKind.TEXT: 40, ClientKind.PAIR: 10}
_STRONG: dict[str, Any] = {
    "preset": "pretrained",
    "distillation": {"self_share": 0.0, "weight": 1000.0, "passes": 10},
}
"""Where the server learns most from its clients: docs/adr/0020."""
SETTINGS = (
    Setting(name="generated", counts=_MIXED, federation=_SMALL, parts={}, is_real=False),
    Setting(name="cuts", counts=_MIXED, federation=_SMALL, parts=_PARTS),
    Setting(
        name="helps",
        counts={ClientKind.PAIR: 10},
        federation=_STRONG,
        parts=_PARTS,
        is_pretrained=True,
    ),
    Setting(
        name="unusual",
        counts={ClientKind.IMAGE: 1, ClientKind.TEXT: 1, ClientKind.PAIR: 6},
        federation=_STRONG,
        parts=_PARTS,
        alpha=0.1,
        is_pretrained=True,
        is_attacked=False,
    ),
)
