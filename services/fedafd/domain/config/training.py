"""Blocks of `federation.yaml` on training: the global model's on the public set, and the clients' on their own data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedafd.domain.config.base import Config, Count, NonNegative, Optimizer, Positive, Precision
from fedafd.domain.kinds import ClientKind

__all__ = ["ClientTrainingConfig", "KindTrainingConfig", "ServerTrainingConfig"]

_OPTIMIZER = "Method of the gradient steps; adamp is Adam for weights of which only the direction counts."
_WEIGHT_DECAY = (
    "Share of each weight that a step takes away, times the learning rate; sgd and adam add it to the gradient."
)
_CLIP_NORM = "Gradients with a longer L2 norm are shortened to this one before each step."
_AUTOCAST = "Train in bfloat16: always, never, or (auto) on a GPU."
_ENCODE_AUTOCAST = (
    "Encode in bfloat16 where nothing is trained (features, evaluation): always, never, or (auto) on a GPU."
)
_ACCUMULATE = "Parts a batch is encoded in: same gradient, memory of one part."
_COMPILE = "torch.compile the encoders; on a CPU it needs a C++ compiler."

_GRAPH = (
    "Record a step once as a CUDA graph and replay it. Not tried on a GPU yet; a step that cannot be recorded runs as"
    " without, and the log tells."
)


class ServerTrainingConfig(Config):
    """Training of the global model on the public set."""

    passes: int = Field(2, ge=1, le=100, description="Public passes per round before the representations are taken.")
    initial_passes: int = Field(
        0, ge=0, le=1000, description="Public passes before those of round 1: for a global model with fresh weights."
    )
    batch_size: int = Field(
        64, ge=2, le=65_536, description="Public pairs per step; more of them make a harder contrast."
    )
    optimizer: Optimizer = Field("adamp", description=_OPTIMIZER)
    learning_rate: Positive = Field(1e-3, description="Step size in the first round.")
    weight_decay: NonNegative = Field(1e-4, description=_WEIGHT_DECAY)
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="cosine: the learning rate falls to 1 % of itself over `schedule_rounds`; constant: not."
    )
    schedule_rounds: Count = Field(
        40,
        description="Rounds that `schedule` counts with; later ones stay at its end.",
    )
    loss_scale: Positive = Field(8.0, description="Initial a and b of the soft contrastive loss (paper: 15).")
    clip_norm: Positive = Field(2.0, description=_CLIP_NORM)
    augment: bool = Field(True, description="Random crop and flip of public images during training.")
    autocast: Precision = Field("auto", description=_AUTOCAST)
    encode_autocast: Precision = Field("auto", description=_ENCODE_AUTOCAST)
    accumulate: Count = Field(1, description=_ACCUMULATE)
    compile: bool = Field(False, description=_COMPILE)
    graph: bool = Field(False, description=_GRAPH)


class KindTrainingConfig(Config):
    """Local training of one kind of client."""

    batch_size: int = Field(32, ge=2, le=65_536, description="Private samples per step, and public ones beside them.")
    optimizer: Optimizer = Field("adamp", description=_OPTIMIZER)
    learning_rate: Positive = Field(1e-3, description="Step size of encoders and head.")
    weight_decay: NonNegative = Field(1e-4, description=_WEIGHT_DECAY)
    momentum: NonNegative = Field(0.9, description="Share of the last step that the next one goes on with; sgd alone.")
    schedule: Literal["constant", "steps"] = Field(
        "constant", description="steps: x0.1 at 50 % and 80 % of `schedule_rounds`."
    )
    schedule_rounds: Count | None = Field(
        None, description="Rounds that `schedule` counts with; null: as many as `server.schedule_rounds`."
    )
    fusion_learning_rate: Positive = Field(1e-4, description="Step size of the fusion.")
    fusion_weight_decay: NonNegative = Field(0.0, description="As weight_decay, of the fusion's weights.")
    gate_init: float = Field(0.0, description="Initial gate logit: below 0 leans to the global feature.")
    public_weight: NonNegative = Field(
        1.0, description="Factor on the pairing term, the contrasts and the digest, beside this kind's task loss."
    )


class ClientTrainingConfig(Config):
    """Local training: common values and one block per kind."""

    local_epochs: int = Field(5, ge=1, le=1000, description="Passes over the private training samples in each round.")
    loss_scale: Positive = Field(8.0, description="Initial a and b of a pair client's soft contrastive loss.")
    separation_weight: NonNegative = Field(
        0.5, description="Weight of the class-separation term, cross-entropy of W W^T."
    )
    clip_norm: Positive = Field(2.0, description=_CLIP_NORM)
    augment: bool = Field(True, description="Random crop and flip of private images during training.")
    autocast: Precision = Field("auto", description=_AUTOCAST)
    encode_autocast: Precision = Field("auto", description=_ENCODE_AUTOCAST)
    accumulate: Count = Field(1, description=_ACCUMULATE)
    compile: bool = Field(False, description=_COMPILE)
    graph: bool = Field(False, description=_GRAPH)
    vocabulary: Literal["public+private", "public"] = Field(
        "public+private", description="Texts whose words a client's text encoder knows; averaging needs public."
    )
    public_samples_per_epoch: int | None = Field(
        None, ge=1, description="Public samples that an epoch aligns on; null: the whole public set."
    )
    image: KindTrainingConfig = KindTrainingConfig()
    text: KindTrainingConfig = KindTrainingConfig()
    # A pair client's task loss, a sum over the pairs of a batch, is more than ten times a cross-entropy.
    pair: KindTrainingConfig = KindTrainingConfig(gate_init=-1.5, public_weight=16.0)

    def for_kind(self, kind: ClientKind) -> KindTrainingConfig:
        """The block of one kind."""
        return {ClientKind.IMAGE: self.image, ClientKind.TEXT: self.text, ClientKind.PAIR: self.pair}[kind]
