"""Blocks of `federation.yaml` on the method's parts: alignment (BAA), fusion (GFF) and distillation (SED).

Source: FedAFD, arXiv 2603.04890; `(paper: ...)` is its choice where it differs from the default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedafd.domain.config.base import Config, Count, NonNegative, Positive
from fedafd.domain.config.modes import AlignmentMode, EnsembleMode, FusionMode

__all__ = ["AlignmentConfig", "DistillationConfig", "FusionConfig"]


class AlignmentConfig(Config):
    """BAA: bi-level adversarial alignment, plus the options that measured better."""

    mode: AlignmentMode = Field(
        AlignmentMode.ADVERSARIAL_PAIRING,
        description="How a client aligns its encoder to the global representations: by a discriminator (adversarial,"
        " the paper's), by telling which item is which (pairing), by both, by CreamFL's contrasts (contrastive), by"
        " FedMD's squared distance (digest), or not.",
    )
    weight: NonNegative = Field(0.5, description="lambda of the paper: weight of the adversarial loss.")
    schedule: Literal["joint", "separate"] = Field(
        "joint", description="joint: one public batch beside each private batch; separate: a whole pass first (paper)."
    )
    max_gradient_share: float | None = Field(
        0.05,
        gt=0,
        description="Adversarial gradient norm at most this share of the task's; null: no balancing (paper).",
    )
    discriminator_learning_rate: Positive = Field(1e-4, description="Step size of the discriminators.")
    pairing_weight: NonNegative = Field(0.3, description="Weight of the pairing term.")
    pairing_temperature: Positive = Field(
        0.1, description="The pairing term's similarities are divided by it: lower looks at the nearest items alone."
    )
    contrastive_weight: NonNegative = Field(0.5, description="Weight of CreamFL's two contrasts.")
    contrastive_temperature: Positive = Field(0.1, description="As pairing_temperature, of CreamFL's two contrasts.")
    digest_weight: NonNegative = Field(1.0, description="Weight of the squared distance of mode digest.")
    centre: bool = Field(True, description="Subtract the public mean of the global representations first.")


class FusionConfig(Config):
    """GFF: granularity-aware feature fusion."""

    mode: FusionMode = Field(
        FusionMode.VECTOR,
        description="What is fused with the global model: the sample's vector, or each position (tokens, the paper's);"
        " off: the client's own feature alone; global: the frozen global feature alone.",
    )
    reduction: Count = Field(4, description="Bottleneck ratio of AFF, arXiv 2009.14082.")
    inner_norm: bool = Field(False, description="Normalisation layers inside the attention branches (paper: true).")
    zero_init: bool = Field(True, description="Zero-initialised last layers, so that the gate starts at its offset.")
    normalise_output: bool = Field(True, description="Scale the fused feature to unit length (paper: false).")
    calibrate_gate: bool = Field(
        True,
        description="After training, move the gate where the validation split shows a gain of two standard errors.",
    )
    alone_branch: bool = Field(
        True,
        description="Classifiers that fuse: also train the client's own encoder as if there were no federation, and"
        " predict by a pool of that branch with the fused, own and global features, weighed on the validation split;"
        " a second encoder, and the time to train it.",
    )
    auxiliary_weight: NonNegative = Field(0.5, description="Weight of the task loss on the local and global feature.")
    persistent: bool = Field(True, description="Keep the fusion's weights between rounds.")
    warm_start_steps: int = Field(
        0, ge=0, description="Steps of fusion and head alone, encoders held, before a client's first local epoch."
    )


class DistillationConfig(Config):
    """SED: similarity-guided ensemble distillation."""

    enabled: bool = Field(True, description="false: the server learns from the public set alone.")
    ensemble: EnsembleMode = Field(
        EnsembleMode.SIMILARITY,
        description="How the clients' representations are weighed: by similarity to the global ones (SED), equally"
        " (mean), or by CreamFL's contrast with the other modality (contrastive).",
    )
    temperature: Positive = Field(0.1, description="tau: lower trusts the most similar clients more (paper: 1).")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of the similarities; bfloat16 is faster where the hardware has it, auto is so on a GPU with a"
        " flash attention kernel that takes the rows, and float32 elsewhere: docs/performance.md.",
    )
    self_share: float = Field(
        0.5, ge=0, le=1, description="Share of the global model's own representations in the targets (paper: 0)."
    )
    weight: NonNegative = Field(300.0, description="beta, on the mean over B and D (paper: 0.4, in its own pass).")
    start_round: Count = Field(3, description="First round that distils; earlier ones train only.")
    passes: int = Field(1, ge=1, le=100, description="Public passes per round that distil.")
    joint: bool = Field(True, description="Distil in the same pass as the contrastive loss (paper: false).")
    centre: bool = Field(True, description="Weigh and distil on centred representations.")
    normalise_aggregate: bool = Field(
        True, description="Scale the weighed mean of the clients to unit length (paper: false)."
    )
    weight_cap: Annotated[float, Field(gt=0, le=1)] | Literal["auto", "strict"] | None = Field(
        "auto",
        description="The most that one client may weigh in the ensemble of a public sample; auto: 2 / K of K clients;"
        " strict: 7 / 6 K, so that 30 % of the clients weigh at most 35 % whatever they send, for sites that do not"
        " trust each other; null: no cap (paper). No client is held below 1 / K.",
    )
    leave_out_copies: bool = Field(
        True,
        description="Leave out of a round's ensemble who sends little but the global representations back: much nearer"
        " to them than the other clients, and with nothing beyond them that agrees with anybody. Needs weight_cap.",
    )
    trimmed_share: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share of the clients that count for nothing on a public sample, those whose rows of it agree least"
        " with the other clients' rows: against clients that agree on false rows of a few samples. It discards what"
        " only few clients know, too. 0: none; nobody among fewer than five clients. Needs weight_cap.",
    )
    staleness_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Weight per round of age of what a client without a delivery sent before; null: leave it out.",
    )
    max_staleness: int = Field(
        3, ge=1, le=1_000_000, description="Rounds after which what a client sent before no longer counts."
    )

    @property
    def caps_weights(self) -> bool:
        """Whether clients' weights are capped together before their states merge; equal weights need no cap."""
        return self.enabled and self.weight_cap is not None and self.ensemble is not EnsembleMode.MEAN
