"""What of an encoder is trained: a frozen backbone stays as it was loaded, in eval mode and without gradients."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from fedafd.learning.encoders import Encoder

__all__ = ["freeze_backbone", "trainable_parameters"]


def freeze_backbone(encoder: Encoder) -> None:
    """No gradient, no dropout and no batch norm update in the backbone, whatever `train` is called with later."""
    encoder.backbone.requires_grad_(False).eval()
    encoder.register_forward_pre_hook(_backbone_in_eval)


def trainable_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that an optimizer gets."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def _backbone_in_eval(encoder: nn.Module, _: object) -> None:
    """`train()` of a model around the encoder puts the backbone into training mode again."""
    backbone = encoder.backbone
    assert isinstance(backbone, nn.Module)
    if backbone.training:
        backbone.eval()
