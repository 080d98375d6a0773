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
from fedafd.learning.acceleration import encode_in_parts
from fedafd.learning.encoders import Encoder, Features, build_encoder
from fedafd.learning.feeding import batches
from fedafd.learning.images import image_pixels, scaled
from fedafd.learning.pretrained import pixel_scale
from fedafd.learning.tokens import padding_id, token_ids

__all__ = ["Tower", "encode_all"]

_ENCODE_BATCH = 128
_NOT_OPTIONS = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "model_type"}


class Tower(nn.Module):
    """Encoder, its configuration, and the tokenizer of a text tower."""

    def __init__(
        self, config: EncoderConfig, modality: Modality, *, dim: int, tokenizer: Tokenizer | None = None
    ) -> None:
        super().__init__()
        self.modality, self.dim, self.tokenizer = modality, dim, tokenizer
        self.in_bfloat16, self.parts = False, 1
        """Trains in bfloat16; a batch in so many parts. `accelerate` sets them; in eval mode they count for nothing."""
        vocabulary = tokenizer.get_vocab_size() if tokenizer is not None else 0
        padding = padding_id(tokenizer) if tokenizer is not None else 0
        # Weights are float32, wherever they come from: half precision is for products alone, by autocast.
        self.encoder: Encoder = build_encoder(config, modality, dim=dim, vocabulary=vocabulary, padding=padding).float()
        self.config = _self_contained(config, modality, self.encoder)
        if modality is Modality.IMAGE:
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.image_mean, self.config.image_std))
            self.register_buffer("_factor", 255 * std, persistent=False)
            self.register_buffer("_shift", mean / std, persistent=False)

    def read(self, samples: Sequence[Any]) -> Tensor:
        """Raw images (uint8 arrays) or texts as the tensor that `forward` takes rows of."""
        if self.modality is Modality.IMAGE:
            return image_pixels(samples, self.config.image_size)
        assert self.tokenizer is not None
        return token_ids(self.tokenizer, samples, self.config.max_tokens)

    def forward(self, rows: Tensor) -> Features:
        """Encode rows of what `read` made."""
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=self.in_bfloat16 and self.training):
            if self.parts > 1 and self.training and torch.is_grad_enabled():
                return encode_in_parts(self._encode, rows, self.parts, self)
            return self._encode(rows)

    def _encode(self, rows: Tensor) -> Features:
        if self.modality is Modality.IMAGE:
            rows = scaled(rows, self.get_buffer("_factor"), self.get_buffer("_shift"))
        features: Features = self.encoder(rows)
        return features

    def to_files(self, prefix: str = "") -> dict[str, bytes]:
        """The tower as files of a model folder."""
        config = {
            "modality": self.modality.value,
            "embedding_dim": self.dim,
            "encoder": self.config.model_dump(mode="json"),
            "backbone": self.config.options,
        }
        files = {
            f"{prefix}config.json": json.dumps(config, indent=2, sort_keys=True).encode(),
            f"{prefix}model.safetensors": save(
                {key: value.detach().cpu().contiguous() for key, value in sorted(self.encoder.state_dict().items())}
            ),
        }
        if self.modality is Modality.IMAGE:
            files[f"{prefix}preprocessor_config.json"] = json.dumps(_preprocessor(self.config), indent=2).encode()
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


def _self_contained(config: EncoderConfig, modality: Modality, encoder: Encoder) -> EncoderConfig:
    """The configuration that builds the same encoder, reading the same input, with nothing pretrained at hand."""
    changes: dict[str, Any] = {"pretrained": None}
    if modality is Modality.IMAGE:
        changes["image_mean"], changes["image_std"] = pixel_scale(config)
    held: Any = getattr(getattr(encoder.backbone, "model", None), "config", None)
    if hasattr(held, "to_diff_dict"):
        options = {key: value for key, value in held.to_diff_dict().items() if key not in _NOT_OPTIONS}
        changes["options"] = json.loads(json.dumps(options))
    return config.model_copy(update=changes)


def _preprocessor(config: EncoderConfig) -> dict[str, Any]:
    """What a transformers image processor calls the way pixels are read here."""
    side = {"height": config.image_size, "width": config.image_size}
    scale = {"do_rescale": True, "rescale_factor": 1 / 255, "image_mean": config.image_mean}
    return {"do_resize": True, "size": side, "resample": 2, "do_normalize": True, "image_std": config.image_std} | scale


@torch.inference_mode()
def encode_all(tower: Tower, rows: Tensor, device: torch.device) -> NDArray[np.float32]:
    """Unit rows [n, D] of all samples, in eval mode; the tower's mode stays as it was."""
    training = tower.training
    tower.eval()
    # The result comes back once, at the end: each copy from a GPU would wait for it.
    parts = [tower(batch).vector_BD for batch in batches(rows, _ENCODE_BATCH, device)]
    tower.train(training)
    encoded: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return encoded
