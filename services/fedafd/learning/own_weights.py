"""A bundle as far as a site has it already: the server's layout, filled with pretrained weights of the site's own.

What is frozen in the global encoder is, byte for byte, what the checkpoint holds. A site with the same checkpoint makes
those bytes itself and downloads the others; the hash of the whole bundle decides in the end.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fedafd.artifacts.bundle_heads import BundleHead
from fedafd.domain.config import EncoderConfig
from fedafd.domain.kinds import Modality
from fedafd.learning.lora import BASE
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.tokens import tokenizer_for

__all__ = ["write_own_part"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Of safetensors' words, those that encoders use."""


def write_own_part(
    target: Path, begin: bytes, head: BundleHead, size_bytes: int, config: EncoderConfig, modality: Modality, dim: int
) -> int:
    """Write a file of `size_bytes` with the bundle's first bytes and each tensor that is frozen and fits its place.

    `config` is the global encoder's, with `pretrained` being the site's. Returns how many bytes of tensors were
    written; the rest of the file is zeros. Raises ConfigurationError for weights that cannot be used, OSError.
    """
    config = config.model_copy(update={"trainable": "head", "lora": None})  # LoRA's matrices are not the site's
    tokenizer = tokenizer_for(config, ()) if modality is Modality.TEXT else None
    with torch.random.fork_rng(devices=[]):  # what is drawn here is written nowhere
        network = SampleEncoder(config, modality, dim=dim, tokenizer=tokenizer).network
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    own = {name: tensor for name, tensor in network.state_dict().items() if name not in trained}
    written = 0
    with target.open("wb") as file:
        file.truncate(size_bytes)
        file.write(begin[: head.num_bytes])
        for name, stored in head.tensors.items():
            tensor = own.get(name.replace(BASE, "."))
            if tensor is None or stored.dtype not in _DTYPES or tuple(tensor.shape) != stored.shape:
                continue
            content = _bytes_of(tensor, _DTYPES[stored.dtype])
            if len(content) != stored.span.end - stored.span.start:
                continue
            file.seek(stored.span.start)
            file.write(content)
            written += len(content)
    return written


def _bytes_of(tensor: Tensor, dtype: torch.dtype) -> bytes:
    return tensor.detach().cpu().to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
