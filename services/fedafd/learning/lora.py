"""LoRA: small trained matrices beside a backbone's frozen weights, by peft; merged, a model needs peft no more.

While they are trained, and on their way between server and sites, the matrices are tensors of their own
(`<layer>.lora_A.default.weight`, `<layer>.lora_B.default.weight`), and the frozen ones (`<layer>.base_layer.weight`)
keep their bits: what is sent by content is sent once. They stay apart in a model that a site shares, too, and are
merged where it is read. Any other model's folder holds their sum under the layer's own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from fedafd.domain.config import EncoderConfig, LoraConfig, parse_config
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.learning.encoders import Encoder
from fedafd.learning.tensor_bytes import tensors_of

__all__ = ["BASE", "add_adapters", "merge_folder", "merged_encoder", "merged_files", "merged_tensors"]

_ATTENTION = {
    *("query", "value", "query_proj", "value_proj", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v"),
    *("qkv", "Wqkv", "in_proj", "qkv_proj"),
}
"""What families call the layers that make queries and values, or all three at once."""
_SHAPE = ("kernel_size", "stride", "padding", "dilation", "groups")
BASE, _ADAPTER = ".base_layer.", ".lora_"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_SHOWN = 12


def add_adapters(encoder: Encoder, lora: LoraConfig) -> LoraConfig:
    """Freeze the backbone and put trained matrices beside its target layers, in place; returns which those are.

    The running statistics of batch normalisation stay, too. Raises ConfigurationError where peft is missing or a
    target names no layer that can have such matrices.
    """
    try:
        import peft
    except ImportError:
        raise ConfigurationError("trainable: lora needs the extra `lora`: pip install fedafd[lora]") from None
    targets = _targets(encoder.backbone, lora.targets)
    # A pattern of whole names: of a list peft would take the ends.
    names = "|".join(re.escape(name) for name in targets)
    chosen = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
    peft.inject_adapter_in_model(chosen, encoder.backbone)
    _show_shapes(encoder.backbone)
    for name, parameter in encoder.backbone.named_parameters():
        parameter.requires_grad_(_ADAPTER in name)
    encoder.keeps_statistics = True
    return lora.model_copy(update={"targets": tuple(targets)})


def _show_shapes(backbone: nn.Module) -> None:
    """Some families (MobileNet) read a convolution's shape to pad what it gets, and peft's layer does not show it."""
    for module in backbone.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, nn.Conv2d):
            for name in _SHAPE:
                setattr(module, name, getattr(base, name))


def merged_tensors(lora: LoraConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's tensors with the matrices added, in float32, to the weights that they stand beside.

    Raises ValueError, KeyError or RuntimeError for matrices that do not fit each other or the weights.
    """
    merged = {}
    for name, value in tensors.items():
        if _ADAPTER in name:
            continue
        layer, base, part = name.rpartition(BASE)
        if base and part == "weight":
            value = value.float() + lora.alpha / lora.rank * _product(layer, value, tensors)
        merged[f"{layer}.{part}" if base else name] = value
    return merged


def merged_encoder(
    described: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str
) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """What `config.json` says of an encoder, and its tensors, with nothing of LoRA; as they are, where there is none.

    Raises DataError naming `source` for what describes no encoder, or another one than the tensors are of.
    """
    values = described.get("encoder")
    if not isinstance(values, dict) or values.get("trainable") != "lora":
        return described, tensors
    try:
        adapter = parse_config(EncoderConfig, values, "encoder").adapter
        assert adapter is not None
        merged = merged_tensors(adapter, tensors)
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, ConfigurationError) as error:
        raise DataError(f"{source}: describes no encoder that its weights are of: {error!r}") from None
    return dict(described) | {"encoder": values | {"trainable": "all", "lora": None}}, merged


def merged_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of an encoder's folder in which nothing of LoRA is left; as they are, where there is none.

    Raises DataError for a folder that describes no encoder, or another one than its weights are of.
    """
    try:
        described = json.loads(files[_CONFIG])
        if described["encoder"].get("trainable") != "lora":
            return dict(files)
        tensors = tensors_of(files[_WEIGHTS])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise DataError(f"model folder: describes no encoder that its weights are of: {error!r}") from None
    plain, merged = merged_encoder(described, tensors, "model folder")
    weights = {name: value.contiguous() for name, value in merged.items()}
    return dict(files) | {_CONFIG: json.dumps(plain, indent=2, sort_keys=True).encode(), _WEIGHTS: save(weights)}


def merge_folder(folder: Path) -> None:
    """The same of a folder, in place; weights without LoRA are not read."""
    described = json.loads((folder / _CONFIG).read_bytes())
    if described["encoder"].get("trainable") != "lora":
        return
    for name, content in merged_files({name: (folder / name).read_bytes() for name in (_CONFIG, _WEIGHTS)}).items():
        (folder / name).write_bytes(content)


def _product(layer: str, weight: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Of the two matrices, in the weight's shape; of a convolution the second one reads single positions.

    Raises ValueError for matrices of another shape, before their product takes memory.
    """
    down, up = (tensors[f"{layer}.lora_{which}.default.weight"].float() for which in "AB")
    up = up.flatten(1)
    if (up.shape[0], *down.shape[1:]) != tuple(weight.shape):
        raise ValueError(f"{layer}: the matrices' product has another shape than the weight beside them")
    return torch.einsum("or,r...->o...", up, down)


def _targets(backbone: nn.Module, wanted: Sequence[str] | None) -> list[str]:
    layers = _layers(backbone)
    if wanted is None:
        linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
        targets = [name for name in layers if name.rpartition(".")[2] in _ATTENTION] or linear or list(layers)
    elif all(end in layers for end in wanted):
        targets = list(wanted)
    else:
        targets = [name for name in layers if any(_ends(name, end) for end in wanted)]
        lacking = [end for end in wanted if not any(_ends(name, end) for name in layers)]
        if lacking:
            raise ConfigurationError(f"lora.targets: no layer's name ends in {', '.join(lacking)}; {_known(layers)}")
    if not targets:
        raise ConfigurationError("trainable: lora: the encoder has no linear layer and no convolution to stand beside")
    return targets


def _layers(backbone: nn.Module) -> dict[str, nn.Module]:
    """Those whose weights can be merged. torch's own attention reads its inner layer's weights past the matrices."""
    inner = {id(m.out_proj) for m in backbone.modules() if isinstance(m, nn.MultiheadAttention)}
    return {
        name: layer
        for name, layer in backbone.named_modules()
        if (isinstance(layer, nn.Linear) or _is_plain_convolution(layer)) and id(layer) not in inner
    }


def _is_plain_convolution(layer: nn.Module) -> bool:
    """One whose matrices read what it reads: peft gives them no groups, no dilation and no padding mode."""
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or layer.padding_mode != "zeros":
        return False
    return set(layer.dilation) == {1}


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _known(layers: Mapping[str, nn.Module]) -> str:
    ends = sorted({name.rpartition(".")[2] for name in layers})
    more = f" and {len(ends) - _SHOWN} more" if len(ends) > _SHOWN else ""
    return f"there are {', '.join(ends[:_SHOWN])}{more}" if ends else "the encoder has none that can have them"
