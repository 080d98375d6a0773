"""Models of transformers and timm as backbones: positions [B, P, C] and their weights [B, P], of pixels or token ids.

Shape legend: B samples, P positions (feature-map cells or tokens), C backbone channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedafd.domain.errors import ConfigurationError

__all__ = ["LEARNED_WITHOUT_MASK", "ImageBackbone", "TextBackbone", "pooled_without_mask"]

_TAKE_WHOLE_MASKS = {"bert", "distilbert"}
_LOOK_BACK = {
    *("clip_text_model", "clipseg_text_model", "metaclip_2_text_model", "owlvit_text_model", "owlv2_text_model"),
    *("groupvit_text_model", "aimv2_text_model"),
}
"""Families whose tokens see those before them alone, and whose padding is often the token that closes a text, which is
the pooled one."""
LEARNED_WITHOUT_MASK = {"siglip_text_model", "siglip2_text_model"}
"""Families that were trained on padding, too, and pool the last position."""


def pooled_without_mask(model_type: str) -> bool:
    """Whether a text model's own pooled feature is right without a mask over padding, and may be wrong with one."""
    return model_type in _LOOK_BACK | LEARNED_WITHOUT_MASK


class ImageBackbone(nn.Module):
    """A transformers vision model; every position counts the same."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.model(pixels).last_hidden_state
        positions_BPC = _as_positions(hidden, getattr(self.model, "timm_model", None))
        count = positions_BPC.shape[1]
        return positions_BPC, positions_BPC.new_full(positions_BPC.shape[:2], 1.0 / count)


def _as_positions(hidden: Tensor, timm_model: Any) -> Tensor:
    """A map [B, C, H, W] as positions [B, P, C]; some of timm's are [B, H, W, C], and a pooled row is one position."""
    if hidden.dim() == 4 and timm_model is not None and hidden.shape[1] != timm_model.num_features:
        return hidden.flatten(1, 2)
    if hidden.dim() == 4:
        return hidden.flatten(2).transpose(1, 2)
    return hidden if hidden.dim() == 3 else hidden.unsqueeze(1)


class TextBackbone(nn.Module):
    """A transformers language model. By `pooling` every token that is no padding counts the same (mean), the first one
    alone counts (cls), or the model's own pooler makes one position of them."""

    def __init__(self, model: nn.Module, padding: int, pooling: str | None = None) -> None:
        super().__init__()
        self.model, self.padding, self.pooling = model, padding, pooling or "mean"

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        mask = (ids != self.padding).long()
        if ids.device.type == "cpu" and self.pooling != "pooler":
            # Columns that are padding in every row cost a CPU time; a GPU would have to be waited for to know them.
            # A pooler may read the last one (SigLIP's does).
            used = max(1, int((mask.amax(0) * torch.arange(1, mask.shape[1] + 1)).amax()))
            ids, mask = ids[:, :used], mask[:, :used]
        sizes: Any = self.model.config
        unmasked = self.pooling == "pooler" and pooled_without_mask(sizes.model_type)
        output = self.model(input_ids=ids, attention_mask=None if unmasked else self._attended(mask))
        if self.pooling == "pooler":
            own_BC = getattr(output, "pooler_output", None)
            if own_BC is None:
                raise ConfigurationError(f"pooling: {type(self.model).__name__} has no pooler; take mean or cls")
            return own_BC.unsqueeze(1), own_BC.new_ones(len(own_BC), 1)
        hidden = output.last_hidden_state
        if self.pooling == "cls":
            first_BP = torch.zeros_like(mask, dtype=hidden.dtype)
            first_BP[:, 0] = 1
            return hidden, first_BP
        return hidden, mask.to(hidden.dtype) / mask.sum(1, keepdim=True).clamp(min=1)

    def _attended(self, mask_BP: Tensor) -> Tensor:
        """What transformers is given. It looks into a mask [B, P] whether it masks anything, and a GPU would have to be
        waited for; one of all queries and keys [B, 1, P, P] it takes as it is. Made here of what is added to logits, so
        that no layer has to make that of a mask."""
        sizes: Any = self.model.config
        if mask_BP.device.type == "cpu" or sizes.model_type not in _TAKE_WHOLE_MASKS:
            return mask_BP
        if sizes._attn_implementation != "sdpa":
            return mask_BP
        device_type = mask_BP.device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else torch.float32
        bias_BP = torch.zeros_like(mask_BP, dtype=dtype).masked_fill_(mask_BP == 0, torch.finfo(dtype).min)
        return bias_BP[:, None, None, :].expand(-1, 1, mask_BP.shape[1], -1).contiguous()
