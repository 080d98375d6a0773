"""`privacy` in agent.yaml: what a site spends of its samples' privacy when it trains (docs/privacy.md)."""

from __future__ import annotations

from pydantic import Field, model_validator

from fedafd.domain.config.base import Config, Count, Positive
from fedafd.domain.config.federation import FederationConfig
from fedafd.domain.kinds import ClientKind

__all__ = ["DpConfig", "PrivacyConfig"]


class DpConfig(Config):
    """Training by DP-SGD (arXiv 1607.00133), and the budget of all rounds together.

    Nothing in it, and nothing that follows from it, may depend on the samples: that is why `samples` is stated here and
    not counted.
    """

    epsilon: float = Field(gt=0, le=1000, description="Budget of all rounds together: no round goes beyond it.")
    delta: float = Field(gt=0, lt=1, description="Of (epsilon, delta); less than 1 / `samples`.")
    samples: Count = Field(
        description="About how many training samples you have, as a round number that everybody may know: how many are"
        " drawn for a step follows from it, and not from their true number."
    )
    noise_multiplier: float = Field(
        1.0, gt=0, le=1000, description="Standard deviation of the noise on a step's gradient, in units of `clip`."
    )
    clip: Positive = Field(1.0, le=1e6, description="Longest gradient of one sample; longer ones are cut to it.")

    @model_validator(mode="after")
    def _delta_is_small(self) -> DpConfig:
        if self.delta * self.samples >= 1:
            raise ValueError(
                f"delta is {self.delta:g}, but must be less than 1 / samples, {1 / self.samples:g}: with more, one"
                " sample could be given away whole"
            )
        return self

    def sampling_rate(self, batch_size: int) -> float:
        """The chance of each sample to be in a step."""
        return min(1.0, batch_size / self.samples)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Steps of an epoch that take private samples."""
        return max(1, self.samples // batch_size)

    def steps_of_round(self, federation: FederationConfig, kind: ClientKind, *, is_new: bool) -> int:
        """Steps of a round that take private samples; `is_new`: of a client without a state."""
        epochs = federation.client.local_epochs * self.steps_per_epoch(federation.client.for_kind(kind).batch_size)
        return epochs + (federation.fusion.warm_start_steps if is_new else 0)


class PrivacyConfig(Config):
    """Proven bounds on what can be drawn from what leaves."""

    dp: DpConfig | None = Field(
        None, description="Differential privacy of training, for classifiers; null: none. docs/privacy.md."
    )
