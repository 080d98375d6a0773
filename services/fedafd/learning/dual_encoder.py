"""Dual encoders, such as CLIP and SigLIP, with their own projections: one half of the model is one modality's backbone.

Shape legend: B samples, C numbers of the model's own feature. The feature is the one position of a sample [B, 1, C].
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.automatic import self_options
from fedafd.learning.transformer_backbones import pooled_without_mask

__all__ = ["DualBackbone", "half_of", "half_options"]

_METHODS = {Modality.IMAGE: "get_image_features", Modality.TEXT: "get_text_features"}
_OTHER_PARTS = {Modality.IMAGE: ("text",), Modality.TEXT: ("vision", "visual", "image")}
"""What names of the other modality's parts start with."""
_OTHER_CONFIG = {Modality.IMAGE: "text_config", Modality.TEXT: "vision_config"}


class DualBackbone(nn.Module):
    """Half of a dual encoder, which makes the feature that the whole one makes."""

    def __init__(self, model: Any, modality: Modality, padding: int) -> None:
        super().__init__()
        self.model, self.modality, self.padding = model, modality, padding

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        output = self._of_texts(batch) if self.modality is Modality.TEXT else self.model.get_image_features(batch)
        own_BC = getattr(output, "pooler_output", output)
        if not isinstance(own_BC, Tensor) or own_BC.dim() != 2:
            raise ConfigurationError(f"projection: own: {type(self.model).__name__} makes no one feature of a sample")
        return own_BC.unsqueeze(1), own_BC.new_ones(len(own_BC), 1)

    def _of_texts(self, ids: Tensor) -> Any:
        # All columns: of some families the feature is the last one's, padding or not.
        if pooled_without_mask(self.model.config.text_config.model_type):
            return self.model.get_text_features(input_ids=ids)
        return self.model.get_text_features(input_ids=ids, attention_mask=(ids != self.padding).long())


def half_of(model: Any, config: EncoderConfig, modality: Modality) -> Any:
    """The model, in place, without what the other modality alone needs.

    Raises ConfigurationError for one that is no dual encoder.
    """
    if not hasattr(model, _METHODS[modality]) or not hasattr(model.config, "text_config"):
        raise ConfigurationError(
            f"projection: own: {config.pretrained or model.config.model_type} is no dual encoder, such as CLIP or"
            f" SigLIP; leave `projection` out"
        )
    for name in [name for name, _ in model.named_children() if name.startswith(_OTHER_PARTS[modality])]:
        delattr(model, name)
    # The scale of the pair's loss; a federation trains with its own.
    for name in [name for name, _ in model.named_parameters(recurse=False)]:
        delattr(model, name)
    return model


def half_options(model_config: Any, modality: Modality) -> dict[str, Any]:
    """Options that make the same half with nothing pretrained at hand; the other one is as small as it can be."""
    options = self_options(model_config)
    other = options[_OTHER_CONFIG[modality]]
    if "num_hidden_layers" in other:
        other["num_hidden_layers"] = 1
    return options
