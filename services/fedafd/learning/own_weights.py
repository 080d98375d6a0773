"""A bundle as far as a site has it already: the server's layout, filled with pretrained weights of the site's own.

What is frozen in the global encoder is, byte for byte, what the checkpoint holds. A site with the same checkpoint makes
those bytes itself and downloads the others; the hash of the whole bundle decides in the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from fedafd.artifacts.blocks import Span
from fedafd.artifacts.bundle_heads import BundleHead
from fedafd.domain.config import EncoderConfig
from fedafd.domain.kinds import Modality
from fedafd.learning.lora import BASE
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.tensor_bytes import bytes_of
from fedafd.learning.tokens import tokenizer_for

__all__ = ["OwnPart", "write_own_part"]

_WORDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls the types that encoders use."""


class OwnPart(NamedTuple):
    """What a site could give of a bundle: where its tensors lie, in ascending order, and the bytes of all it has."""

    spans: list[Span]
    num_bytes: int


def write_own_part(
    target: Path, begin: bytes, head: BundleHead, size_bytes: int, config: EncoderConfig, modality: Modality, dim: int
) -> OwnPart:
    """Write a file of `size_bytes` with the bundle's first bytes and each tensor that is frozen and fits its place.

    `config` is the global encoder's, with `pretrained` being the site's. A tensor fits where name, shape and type are
    its own, and is written once; the rest of the file is zeros. Raises ConfigurationError for weights that cannot be
    used, OSError.
    """
    config = config.model_copy(update={"trainable": "head", "lora": None})  # LoRA's matrices are not the site's
    tokenizer = tokenizer_for(config, ()) if modality is Modality.TEXT else None
    with torch.random.fork_rng(devices=[]):  # what is drawn here is written nowhere
        network = SampleEncoder(config, modality, dim=dim, tokenizer=tokenizer).network
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    own = {name: tensor for name, tensor in network.state_dict().items() if name not in trained}
    num_bytes, spans = sum(tensor.nbytes for tensor in own.values()), []
    with target.open("wb") as file:
        file.truncate(size_bytes)
        file.write(begin[: head.num_bytes])
        for name, stored in sorted(head.tensors.items(), key=lambda item: item[1].span.start):
            tensor = own.get(plain := name.replace(BASE, "."))
            if tensor is None or (_WORDS.get(tensor.dtype), tuple(tensor.shape)) != (stored.dtype, stored.shape):
                continue
            if tensor.nbytes != stored.span.end - stored.span.start:
                continue
            del own[plain]
            file.seek(stored.span.start)
            file.write(bytes_of(tensor))
            spans.append(stored.span)
    return OwnPart(spans, num_bytes)
