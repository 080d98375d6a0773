"""`cohort` of `federation.yaml`: which of its sites a round invites."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from fedafd.domain.config.base import Config, Count

__all__ = ["CohortConfig"]


class CohortConfig(Config):
    """Without `size` and `fraction` a round invites every enrolled site, and waits for those that are away."""

    size: Count | None = Field(
        None,
        description="How many of the sites that are online are invited, those first that were invited least often.",
    )
    fraction: float | None = Field(
        None, gt=0, le=1, description="Instead of size: this share of the sites that are online, rounded up; 1: all."
    )
    per_kind: bool = Field(False, description="Take size or fraction of each kind of site: image, text and pair.")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Decides between sites that were invited equally often; null: the federation's.",
    )

    @model_validator(mode="after")
    def _is_one_of_both(self) -> CohortConfig:
        if self.size is not None and self.fraction is not None:
            raise ValueError("cohort: give size or fraction, not both")
        return self

    @property
    def is_drawn(self) -> bool:
        """Whether a round invites a sample of those online, and not all that are enrolled."""
        return self.size is not None or self.fraction is not None

    def of(self, count: int) -> int:
        """How many of `count` sites are invited."""
        if self.fraction is not None:
            return math.ceil(round(self.fraction * count, 9))  # 0.7 of 10 is 7, though 0.7 * 10 is more than 7
        return count if self.size is None else min(self.size, count)
