"""One modality's encoder with all it needs to read raw samples: tokenizer or image size. Packs into a model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from tokenizers import Tokenizer
from torch import Tensor, nn

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import Modality
from fedafd.learning.encoders import Encoder, Features, build_encoder
from fedafd.learning.images import image_pixels, scaled
from fedafd.learning.tokens import token_ids

__all__ = ["Tower", "encode_all"]

_ENCODE_BATCH = 128


class Tower(nn.Module):
    """Encoder, its configuration, and the tokenizer of a text tower."""

    def __init__(
        self, config: EncoderConfig, modality: Modality, *, dim: int, tokenizer: Tokenizer | None = None
    ) -> None:
        super().__init__()
        self.config, self.modality, self.dim, self.tokenizer = config, modality, dim, tokenizer
        vocabulary = tokenizer.get_vocab_size() if tokenizer is not None else 0
        self.encoder: Encoder = build_encoder(config, modality, dim=dim, vocabulary=vocabulary)

    def read(self, samples: Sequence[Any]) -> Tensor:
        """Raw images (uint8 arrays) or texts as the tensor that `forward` takes rows of."""
        if self.modality is Modality.IMAGE:
            return image_pixels(samples, self.config.image_size)
        assert self.tokenizer is not None
        return token_ids(self.tokenizer, samples, self.config.max_tokens)

    def forward(self, rows: Tensor) -> Features:
        """Encode rows of what `read` made."""
        features: Features = self.encoder(scaled(rows) if self.modality is Modality.IMAGE else rows)
        return features

    def to_files(self, prefix: str = "") -> dict[str, bytes]:
        """The tower as files of a model folder."""
        config = {
            "modality": self.modality.value,
            "embedding_dim": self.dim,
            "encoder": self.config.model_dump(mode="json") | {"pretrained": None},
        }
        config["backbone"] = _backbone_options(self)
        files = {
            f"{prefix}config.json": json.dumps(config, indent=2, sort_keys=True).encode(),
            f"{prefix}model.safetensors": save(
                {key: value.detach().cpu().contiguous() for key, value in sorted(self.encoder.state_dict().items())}
            ),
        }
        if self.tokenizer is not None:
            files[f"{prefix}tokenizer.json"] = self.tokenizer.to_str().encode()
        return files

    @classmethod
    def from_files(cls, files: dict[str, bytes], prefix: str = "") -> Tower:
        """Read back what to_files made. Raises DataError naming the file that is missing or does not fit."""
        try:
            config = json.loads(files[f"{prefix}config.json"])
            weights = load(files[f"{prefix}model.safetensors"])
            encoder = EncoderConfig.model_validate(config["encoder"] | {"options": config["backbone"]})
            modality = Modality(config["modality"])
            content = files.get(f"{prefix}tokenizer.json")
            tokenizer = Tokenizer.from_str(content.decode()) if content is not None else None
            tower = cls(encoder, modality, dim=int(config["embedding_dim"]), tokenizer=tokenizer)
            tower.encoder.load_state_dict(weights)
        except (KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"model folder, {prefix or 'top level'}: {error}") from None
        return tower.eval()


def _backbone_options(tower: Tower) -> dict[str, Any]:
    model = getattr(tower.encoder.backbone, "model", None)
    if model is None:
        return dict(tower.config.options)
    drop = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "model_type"}
    options = {key: value for key, value in model.config.to_diff_dict().items() if key not in drop}
    plain: dict[str, Any] = json.loads(json.dumps(options))
    return plain


@torch.inference_mode()
def encode_all(tower: Tower, rows: Tensor, device: torch.device) -> NDArray[np.float32]:
    """Unit rows [n, D] of all samples, in eval mode; the tower's mode stays as it was."""
    training = tower.training
    tower.eval()
    parts = [tower(rows[i : i + _ENCODE_BATCH].to(device)).vector_BD.cpu() for i in range(0, len(rows), _ENCODE_BATCH)]
    tower.train(training)
    encoded: NDArray[np.float32] = torch.cat(parts).numpy()
    return encoded
