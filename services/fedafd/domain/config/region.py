"""`region.yaml`: which federation a region takes part in, and which one of its own stands for it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from fedafd.domain.addresses import DialAddress
from fedafd.domain.config.agent import PlaintextField, TlsConfig
from fedafd.domain.config.base import Config, Name
from fedafd.domain.config.federation import FederationConfig
from fedafd.domain.paths import OwnPath

__all__ = ["RegionConfig", "config_of_region"]

_OWN = ("name", "quorum", "idle_timeout_seconds", "accept_personalized_models", "max_upload_bytes", "retention")


class RegionConfig(Config):
    """`region.yaml`: one region's process."""

    aggregator: DialAddress = Field(description="host:port of the upper federation's aggregator.")
    federation: Name = Field(description="The region's own federation, which its sites are invited to.")
    state_dir: OwnPath = Field(
        Path("fedafd-region"), description="Credential, downloads and the record of what was sent."
    )
    deadline_share: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="The share of the upper round's time that the region's sites have; the rest is for merging and"
        " sending.",
    )
    tls: TlsConfig | None = Field(None, description="TLS to the upper aggregator; null: by the invitation's token.")
    plaintext: bool | None = PlaintextField


def config_of_region(upper: FederationConfig, own: FederationConfig, seconds: float | None) -> FederationConfig:
    """What a region's round follows: all of the method from above, and how it deals with its sites from its own.

    `seconds`: how long it waits for them; None: for ever.
    """
    kept = {name: getattr(own, name) for name in _OWN}
    return upper.model_copy(update=kept | {"round_deadline_seconds": seconds})
