"""A client as it would be without the federation: by what configuration it trains alone."""

from __future__ import annotations

from fedafd.domain.config import FederationConfig, FusionMode
from fedafd.domain.kinds import ClientKind
from fedafd.domain.presets import merged
from fedafd.domain.strategies import STRATEGIES

__all__ = ["alone", "has_alone_branch"]


def alone(config: FederationConfig) -> FederationConfig:
    """The same federation's configuration for a client that trains by itself: strategy `local`."""
    values = merged(config.model_dump(mode="json"), STRATEGIES["local"])
    # Averaging would start it from other weights; and where all words are the public set's, it would know none.
    by_itself = {"strategy": "local", "averaging": "off", "client": {"vocabulary": "public+private"}}
    return FederationConfig.model_validate(merged(values, by_itself))


def has_alone_branch(config: FederationConfig, kind: ClientKind) -> bool:
    """Whether a client's personalized model has a branch that is trained alone (docs/adr/0016)."""
    fuses = config.fusion.mode in (FusionMode.VECTOR, FusionMode.TOKENS)
    return config.fusion.alone_branch and fuses and kind is not ClientKind.PAIR
