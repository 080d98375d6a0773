"""`federation.yaml`: what every participant of a federation agrees on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedafd.domain.config.base import LONGEST_SECONDS, Config, Count, Name
from fedafd.domain.config.cohort import CohortConfig
from fedafd.domain.config.encoders import EncoderConfig
from fedafd.domain.config.method import AlignmentConfig, DistillationConfig, FusionConfig
from fedafd.domain.config.modes import AveragingMode, BundleDtype, WireDtype
from fedafd.domain.config.retention import RetentionConfig
from fedafd.domain.config.training import ClientTrainingConfig, ServerTrainingConfig
from fedafd.domain.kinds import Modality
from fedafd.domain.presets import PRESETS, merged
from fedafd.domain.strategies import strategy_names, strategy_values

__all__ = ["OF_THE_SERVER", "FederationConfig", "QuorumConfig", "stored_federation_config"]


OF_THE_SERVER = frozenset(
    {
        "cohort",
        "retention",
        "distillation.weight_cap",
        "distillation.leave_out_copies",
        "distillation.trimmed_share",
    }
)
"""Blocks and keys that are not sent to sites: a site's work does not depend on them, and older agents do not know
them. Those of `distillation` are sent to regions."""


class QuorumConfig(Config):
    """Deliveries that a round needs to go on; less and it fails with that reason."""

    min_clients: Count = Field(1, description="Deliveries that a round needs; with fewer it fails.")
    min_image_clients: int = Field(
        0, ge=0, le=1_000_000, description="Deliveries with image representations that it needs."
    )
    min_text_clients: int = Field(
        0, ge=0, le=1_000_000, description="Deliveries with text representations that it needs."
    )


class FederationConfig(Config):
    """`federation.yaml`: what every participant of a federation agrees on."""

    name: Name = Field(
        description="The federation's name in addresses and files: up to 63 small letters, digits and inner hyphens."
    )
    preset: Literal["default", "small", "pretrained", "paper"] = Field(
        "default",
        description="Values that all others stand on: what measured best, tiny encoders for two CPU cores, small"
        " pretrained ones whose backbones are frozen, or the paper's choices.",
    )
    strategy: str = Field("fedafd", description="A named set of values: see docs/strategies.md.")
    seed: int = Field(0, ge=0, lt=2**63, description="Every random choice of every round follows from it.")
    embedding_dim: int = Field(256, ge=8, le=4096, description="D: numbers in each representation.")
    image_encoder: EncoderConfig = EncoderConfig(architecture="resnet")
    text_encoder: EncoderConfig = EncoderConfig(architecture="bigru")
    server: ServerTrainingConfig = ServerTrainingConfig()
    client: ClientTrainingConfig = ClientTrainingConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    fusion: FusionConfig = FusionConfig()
    distillation: DistillationConfig = DistillationConfig()
    averaging: AveragingMode = Field(
        AveragingMode.OFF,
        description="weights: clients of one kind and architecture average their weights (FedAvg), which then leave"
        " the sites.",
    )
    cohort: CohortConfig = CohortConfig()
    quorum: QuorumConfig = QuorumConfig()
    wire_dtype: WireDtype = Field(
        WireDtype.FLOAT16, description="How representations travel, up and down; int8 has one float32 scale per row."
    )
    bundle_dtype: BundleDtype | None = Field(
        None,
        description="How trained weights travel in encoder bundles; null: in float16 from an encoder with trainable:"
        " lora, in float32 from others. Sites train in float32 always.",
    )
    round_deadline_seconds: float | None = Field(
        3600.0, gt=0, le=LONGEST_SECONDS, description="How long a round waits for deliveries; null: for ever."
    )
    idle_timeout_seconds: float = Field(
        300.0,
        gt=0,
        le=LONGEST_SECONDS,
        description="How long a site or a distiller's stage may make no progress, and send no byte,"
        " before it counts as lost.",
    )
    retention: RetentionConfig = RetentionConfig()
    accept_personalized_models: bool = Field(True, description="Take personalized models from sites that share them.")
    max_upload_bytes: int = Field(
        2 * 2**30, ge=2**20, le=2**40, description="Longest upload that is taken from a site."
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = PRESETS.get(str(values.get("preset", "default")), {})
        name = str(values.get("strategy", "fedafd"))
        strategy = strategy_values(name) if name in strategy_names() else {}
        return merged(merged(preset, strategy), values)

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        strategy_values(name)
        return name

    @model_validator(mode="after")
    def _averages_one_vocabulary(self) -> FederationConfig:
        if self.averaging is not AveragingMode.OFF and self.client.vocabulary != "public":
            raise ValueError("averaging: weights needs client.vocabulary: public, so that embeddings mean the same")
        return self

    def encoder_of(self, modality: Modality) -> EncoderConfig:
        """The global encoder of this modality."""
        return self.image_encoder if modality is Modality.IMAGE else self.text_encoder

    def sites_json(self) -> str:
        """As `canonical_json`, without what concerns the server alone: it reads like the defaults at a site."""
        values = self.model_dump(mode="json")
        for path in OF_THE_SERVER:
            block, _, key = path.rpartition(".")
            (values[block] if block else values).pop(key)
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    def regions_json(self) -> str:
        """As `sites_json`, with what a region does among its own sites as the server does among its clients.

        A key is left out where a region reads it like that anyway: older regions do not know it, and refuse a round
        that they could not do.
        """
        values: dict[str, Any] = json.loads(self.sites_json())
        read = FederationConfig.model_validate(values).distillation
        block: dict[str, Any] = values["distillation"]
        for path in OF_THE_SERVER:
            name = path.removeprefix("distillation.")
            if name != path and getattr(self.distillation, name) != getattr(read, name):
                block[name] = getattr(self.distillation, name)
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    def canonical_json(self) -> str:
        """The configuration as JSON with sorted keys; parses back to an equal object."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def stored_federation_config(values: Mapping[str, Any]) -> FederationConfig:
    """A configuration that was checked when it was stored; parsed once in a process, because it is asked for often."""
    return _parsed(json.dumps(values, sort_keys=True, separators=(",", ":")))


@lru_cache(maxsize=64)
def _parsed(canonical: str) -> FederationConfig:
    return FederationConfig.model_validate_json(canonical)
