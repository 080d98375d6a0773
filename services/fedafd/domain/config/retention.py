"""`retention` of `federation.yaml`: how much of its completed rounds a federation keeps in the object store."""

from __future__ import annotations

from pydantic import Field

from fedafd.domain.config.base import Config, Count

__all__ = ["RetentionConfig"]


class RetentionConfig(Config):
    """What completed rounds keep in the object store; what nothing can need any more is removed after each round."""

    keep_rounds: Count | None = Field(
        3,
        description="Newest completed rounds whose server states stay, to go on from or to roll back to; null: all."
        " Those of the current version and of the one before it, of the best one, and of those that were promoted stay"
        " always.",
    )
    keep_deliveries: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Newest completed rounds of which what the clients delivered stays; 0: it goes with its round."
        " What distillation.staleness_decay lets count later stays as long as that.",
    )
    keep_models: Count | None = Field(
        None,
        description="Newest versions whose folders stay, of the global model and of each client's personalized one,"
        " beside those of versions whose server state stays; null: all.",
    )
