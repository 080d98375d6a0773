"""A client's personalized model: its own encoders, the frozen global ones beside them, fusion, and a task head.

Shape legend: B samples, P positions, D embedding dimension. Local features live in the centred global space: the mean
of the global representations is taken off the global feature before it is fused (see docs/adr/0006).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from fedafd.algorithm.alignment import BiLevelAlignment
from fedafd.algorithm.at_once import takes_at_once
from fedafd.algorithm.centring import centre
from fedafd.algorithm.fusion import GranularityAwareFusion
from fedafd.domain.config import EncoderConfig, FederationConfig, FusionMode
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.batch_norm import accept_single_values
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.encoders import Features
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.tasks import usual_task_of

__all__ = ["ENCODERS", "ClientModel", "Gates", "Views", "make_client_model"]

ENCODERS = "towers"
"""What stored states call the client's own encoders: the first part of their tensors' names."""


class Views(NamedTuple):
    """A modality's features of a batch: fused, local, global; unit rows [B, D]."""

    fused: Tensor
    local: Tensor
    global_: Tensor


class ClientModel(nn.Module):
    """Everything a client keeps between rounds but the frozen global encoders and the optimizers' moments."""

    def __init__(
        self,
        config: FederationConfig,
        kind: ClientKind,
        encoders: Mapping[Modality, SampleEncoder],
        num_labels: int,
        task: Any = None,
    ) -> None:
        """`task`: a LabelTask, or a PairTask for pairs; the kind's usual one if None."""
        super().__init__()
        self.task: Any = usual_task_of(kind) if task is None else task
        dim, fusion, training = config.embedding_dim, config.fusion, config.client.for_kind(kind)
        self.kind, self.mode = kind, fusion.mode
        self.add_module(ENCODERS, nn.ModuleDict({modality.value: encoder for modality, encoder in encoders.items()}))
        self.fusions = nn.ModuleDict()
        if fusion.mode in (FusionMode.VECTOR, FusionMode.TOKENS):
            for modality in encoders:
                self.fusions[modality.value] = GranularityAwareFusion(
                    dim,
                    mode=fusion.mode.value,
                    reduction=fusion.reduction,
                    inner_norm=fusion.inner_norm,
                    zero_init=fusion.zero_init,
                    gate_init=training.gate_init,
                    normalise_output=fusion.normalise_output,
                )
        accept_single_values(self.fusions)
        learned: Any = self.task
        self.head = learned.make_head(dim, num_labels) if num_labels else None
        self.contrast = None if num_labels else learned.make_contrast(config.client)
        self.alignment = BiLevelAlignment(dim, weight=config.alignment.weight)
        for modality in Modality:
            self.register_buffer(f"mean_{modality.value}", torch.zeros(dim))

    @property
    def encoders(self) -> dict[Modality, SampleEncoder]:
        """The client's own, image first."""
        own: Any = self.get_submodule(ENCODERS)
        return {modality: own[modality.value] for modality in self.kind.modalities}

    def set_means(self, means: Mapping[Modality, Tensor]) -> None:
        """Take the round's public means; zero for no centring."""
        for modality, mean_D in means.items():
            self.get_buffer(f"mean_{modality.value}").copy_(mean_D)

    def centred(self, modality: Modality, reps: Tensor) -> Tensor:
        """Global representations in the space that clients work in."""
        mean_D = self.get_buffer(f"mean_{modality.value}")
        return centre(reps, mean_D) if bool(mean_D.any()) else reps

    def views(self, modality: Modality, local: Features, global_: Tensor) -> Views:
        """Fuse local features with centred global ones [B, D]."""
        if self.mode is FusionMode.GLOBAL:
            return Views(global_, local.vector_BD, global_)
        if self.mode is FusionMode.OFF:
            return Views(local.vector_BD, local.vector_BD, global_)
        fusion = self.fusions[modality.value]
        if self.mode is FusionMode.TOKENS:
            fused = fusion(local.tokens_BPD, global_, local.weights_BP)
        else:
            fused = fusion(local.vector_BD, global_)
        return Views(fused, local.vector_BD, global_)

    def task_loss(self, views: Mapping[Modality, Views], labels: Tensor | None, config: FederationConfig) -> Tensor:
        """The task's loss on the fused features, and with `auxiliary_weight` on each branch alone."""
        weight = config.fusion.auxiliary_weight if self.fusions else 0.0
        if weight and takes_at_once(*(row for view in views.values() for row in view)):
            return self._task_at_once(views, labels, config, weight)
        parts = [(1.0, "fused")] + ([(weight, "local"), (weight, "global_")] if weight else [])
        loss = next(iter(views.values())).fused.new_zeros(())
        for factor, view in parts:
            rows = {modality: getattr(modality_views, view) for modality, modality_views in views.items()}
            loss = loss + factor * self._task(rows, labels, config)
        return loss

    def labels_loss(self, views: Views, labels: Tensor, config: FederationConfig) -> Tensor:
        """A classifier's `task_loss` without what the head costs by itself."""
        weight = config.fusion.auxiliary_weight if self.fusions else 0.0
        head: Any = self.head
        loss: Tensor = self.task.loss(head(views.fused), labels)
        if weight:
            loss = loss + weight * sum(
                self.task.loss(head(features), labels) for features in (views.local, views.global_)
            )
        return loss

    def head_loss(self, config: FederationConfig) -> Tensor | None:
        """What the head costs by itself in `task_loss`; None for nothing."""
        weight = config.fusion.auxiliary_weight if self.fusions else 0.0
        by_itself: Tensor | None = self.task.head_loss(self.head, config.client)
        return None if by_itself is None else (1 + 2 * weight) * by_itself

    def _task_at_once(
        self, views: Mapping[Modality, Views], labels: Tensor | None, config: FederationConfig, weight: float
    ) -> Tensor:
        if self.head is None:
            losses_V = self.task.losses(self.contrast, views[Modality.IMAGE], views[Modality.TEXT])
            paired: Tensor = losses_V[0] + weight * losses_V[1:].sum()
            return paired
        (features,) = views.values()
        losses_V = self.task.losses(self.head, features, labels)
        loss: Tensor = losses_V[0] + weight * losses_V[1:].sum()
        by_itself = self.task.head_loss(self.head, config.client)
        return loss if by_itself is None else loss + (1 + 2 * weight) * by_itself

    def _task(self, rows: Mapping[Modality, Tensor], labels: Tensor | None, config: FederationConfig) -> Tensor:
        if self.head is None:
            paired: Tensor = self.task.loss(self.contrast, rows[Modality.IMAGE], rows[Modality.TEXT])
            return paired
        (features,) = rows.values()
        loss: Tensor = self.task.loss(self.head(features), labels)
        by_itself = self.task.head_loss(self.head, config.client)
        return loss if by_itself is None else loss + by_itself


class Gates:
    """The gates of a client's fusions, if it has any, moved together."""

    def __init__(self, fusions: Iterable[Any]) -> None:
        self._fusions = list(fusions)

    def set_gate_offset(self, offset: float) -> None:
        """Move every gate."""
        for fusion in self._fusions:
            fusion.set_gate_offset(offset)


def make_client_model(
    config: FederationConfig, kind: ClientKind, checkpoint: Checkpoint, task: Any = None
) -> ClientModel:
    """A model of `task`, or of the kind's usual one, with the encoders, vocabulary and labels of `checkpoint`.

    Its weights are fresh.
    """
    text = checkpoint.meta["tokenizer"]
    tokenizer = Tokenizer.from_str(text) if text is not None else None
    encoders = {}
    for modality in kind.modalities:
        described = EncoderConfig.model_validate(checkpoint.meta["encoders"][modality.value])
        kept = tokenizer if modality is Modality.TEXT else None
        encoders[modality] = SampleEncoder(described, modality, dim=config.embedding_dim, tokenizer=kept)
    return ClientModel(config, kind, encoders, len(checkpoint.meta["labels"]), task)
