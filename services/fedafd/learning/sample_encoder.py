"""One modality's encoder with all it needs to read raw samples: tokenizer or image size. Packs into a model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor, nn

from fedafd.domain.config import EncoderConfig, parse_config
from fedafd.domain.errors import ConfigurationError, DataError, FedafdError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import Modality
from fedafd.learning.acceleration import encode_in_parts
from fedafd.learning.automatic import plain_options, self_options
from fedafd.learning.batch_norm import accept_single_values
from fedafd.learning.bigru import BiGru
from fedafd.learning.building import Room, RoomError, room_beside, room_here, within
from fedafd.learning.dual_encoder import half_options
from fedafd.learning.encoders import Encoder, Features, build_encoder
from fedafd.learning.feature_cache import features_of
from fedafd.learning.feeding import batches_worked
from fedafd.learning.image_processor import image_reading
from fedafd.learning.images import fit_of, image_pixels, scaled
from fedafd.learning.lora import add_adapters
from fedafd.learning.sentence_folder import text_reading
from fedafd.learning.sound_tokenizer import read_tokenizer
from fedafd.learning.tensor_bytes import tensors_of
from fedafd.learning.tensor_fit import load_fitting
from fedafd.learning.tokens import padding_id, token_ids
from fedafd.learning.trainable import freeze_backbone
from fedafd.learning.transformer_models import AUTO

__all__ = ["SampleEncoder", "description", "encode_all", "is_pooled"]

_MOST_FITTING = 64
_fitting: dict[str, None] = {}
"""Descriptions, with how large their weights are, that made no larger encoder here."""


class SampleEncoder(nn.Module):
    """An encoder with its configuration and, for texts, its tokenizer: reads raw samples and encodes them."""

    def __init__(
        self,
        config: EncoderConfig,
        modality: Modality,
        *,
        dim: int,
        tokenizer: Tokenizer | None = None,
        room: Room | None = None,
    ) -> None:
        """`room`: how much may be made; None: as much as this machine bears."""
        super().__init__()
        self.modality, self.dim, self.tokenizer = modality, dim, tokenizer
        config = text_reading(config, modality)
        self.in_bfloat16, self.parts = False, 1
        """Trains in bfloat16; a batch in `parts` parts. `accelerate` sets them; in eval mode they count for nothing."""
        self.encodes_in_bfloat16 = False
        """In eval mode. `encode_in` sets it; a model that is read from its folder keeps to float32."""
        vocabulary = tokenizer.get_vocab_size() if tokenizer is not None else 0
        padding = padding_id(tokenizer) if tokenizer is not None else 0
        # Weights are float32, wherever they come from: half precision is for products alone, by autocast.
        with within(room or room_here()):
            built = build_encoder(config, modality, dim=dim, vocabulary=vocabulary, padding=padding)
        self.encoder: Encoder = built.float()
        self._token_rows = _rows_of_tokens(self.encoder) if modality is Modality.TEXT else None
        accept_single_values(self.encoder)
        if config.trainable == "head":
            freeze_backbone(self.encoder)
        self.config = _self_contained(config, modality, self.encoder)
        if config.adapter is not None:
            self.config = self.config.model_copy(update={"lora": add_adapters(self.encoder, config.adapter)})
        if modality is Modality.IMAGE:
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.image_mean, self.config.image_std))
            self.register_buffer("_factor", 255 * std, persistent=False)
            self.register_buffer("_shift", mean / std, persistent=False)

    @property
    def network(self) -> Encoder:
        """Backbone and projection, without the reading of samples."""
        return self.encoder

    def read(self, samples: Sequence[Any]) -> Tensor:
        """Raw images (uint8 arrays) or texts as the tensor that `forward` takes rows of."""
        if self.modality is Modality.IMAGE:
            return image_pixels(samples, fit_of(self.config))
        assert self.tokenizer is not None
        prefix = self.config.prefix or ""
        texts = [prefix + text for text in samples]
        return token_ids(self.tokenizer, texts, self.config.max_tokens, rows=self._token_rows)

    def rows(self, samples: Sequence[Any]) -> Tensor:
        """What training takes rows of: as `read`, but of a frozen backbone its features [n, C], computed once."""
        read = self.read(samples)
        return features_of(self, read) if self.config.trainable == "head" else read

    def pooled(self, rows: Tensor) -> Tensor:
        """The backbone's pooled features [B, C] of rows of what `read` made."""
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=self.encodes_in_bfloat16):
            return self.encoder.pooled(self._scaled(rows))

    def forward(self, rows: Tensor) -> Features:
        """Encode rows of what `read` or `rows` made."""
        halved = self.in_bfloat16 if self.training else self.encodes_in_bfloat16
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=halved):
            if self.parts > 1 and self.training and torch.is_grad_enabled():
                return encode_in_parts(self._encode, rows, self.parts, self)
            return self._encode(rows)

    def _encode(self, rows: Tensor) -> Features:
        if is_pooled(rows):
            return self.encoder.projected(rows)
        features: Features = self.encoder(self._scaled(rows))
        return features

    def _scaled(self, rows: Tensor) -> Tensor:
        if self.modality is Modality.TEXT:
            return rows
        return scaled(rows, self.get_buffer("_factor"), self.get_buffer("_shift"))

    def to_files(self, prefix: str = "", trained_in: torch.dtype = torch.float32) -> dict[str, bytes]:
        """Files of a model folder, its trained parameters in `trained_in` where that holds their range."""
        weights = {key: value.detach().cpu().contiguous() for key, value in sorted(self.encoder.state_dict().items())}
        for key in (key for key, parameter in self.encoder.named_parameters() if parameter.requires_grad):
            weights[key] = _narrowed(weights[key], trained_in)
        text = self.tokenizer.to_str() if self.tokenizer is not None else None
        files = description(self.config, self.modality, self.dim, text) | {"model.safetensors": save(weights)}
        return {f"{prefix}{name}": content for name, content in files.items()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], prefix: str = "") -> SampleEncoder:
        """Read back what to_files made. Raises DataError naming the file that is missing or does not fit."""
        source = f"model folder {prefix.rstrip('/') or '.'}"
        try:
            config, weights = json.loads(files[f"{prefix}config.json"]), tensors_of(files[f"{prefix}model.safetensors"])
        except KeyError as error:
            raise DataError(f"{source}: file {error} is missing") from None
        except (ValueError, RecursionError, SafetensorError) as error:
            raise DataError(f"{source}: {error}") from None
        return cls.restored(config, weights, files.get(f"{prefix}tokenizer.json"), source=source)

    @classmethod
    def restored(
        cls, described: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: bytes | None, *, source: str
    ) -> SampleEncoder:
        """The encoder that a config.json describes, in eval mode.

        The folder holds all that it needs: nothing pretrained is looked up. Raises DataError naming `source`.
        """
        given = _read_description(described, f"{source}/config.json")
        room = room_beside(weights, is_half=given.config.projection == "own")
        words = _read_words(tokenizer, given.modality, source)
        _look_at_sizes(given, words, room, source)
        encoder = cls._build(given, words, room, source)
        load_fitting(encoder.network, weights, f"{source}/model.safetensors")
        return encoder.eval()

    @classmethod
    def described(cls, described: Mapping[str, Any], tokenizer: bytes | None, *, source: str) -> SampleEncoder:
        """The same with fresh weights. Raises DataError naming `source`."""
        given = _read_description(described, f"{source}/config.json")
        return cls._build(given, _read_words(tokenizer, given.modality, source), None, source)

    @classmethod
    def _build(cls, given: _Description, words: Tokenizer | None, room: Room | None, source: str) -> SampleEncoder:
        where = f"{source}/config.json"
        try:
            return cls(given.config, given.modality, dim=given.dim, tokenizer=words, room=room)
        except RoomError as error:
            raise DataError(f"{where}: {error}") from None
        except FedafdError:
            raise
        except Exception as error:  # any value may stand in a folder, and libraries fail on each in their own way
            raise DataError(f"{where}: makes no encoder: {type(error).__name__}: {error}") from None


def _narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """In `dtype`, or as they are where one would become infinite."""
    if values.dtype == dtype:
        return values
    narrow = values.to(dtype)
    return narrow if bool(narrow.isfinite().all()) else values


def is_pooled(rows: Tensor) -> bool:
    """Whether rows are features of a frozen backbone, and not pixels or token ids."""
    return rows.dim() == 2 and rows.is_floating_point()


def description(config: EncoderConfig, modality: Modality, dim: int, tokenizer: str | None) -> dict[str, bytes]:
    """The files of an encoder's folder beside its weights. `config` is what a SampleEncoder says of itself."""
    described = {
        "modality": modality.value,
        "embedding_dim": dim,
        "encoder": config.model_dump(mode="json"),
        "backbone": config.options,
    }
    files = {"config.json": json.dumps(described, indent=2, sort_keys=True).encode()}
    if modality is Modality.IMAGE:
        files["preprocessor_config.json"] = json.dumps(_preprocessor(config), indent=2).encode()
    if tokenizer is not None:
        files["tokenizer.json"] = tokenizer.encode()
    return files


class _Description(NamedTuple):
    """What a folder's config.json says."""

    config: EncoderConfig
    modality: Modality
    dim: int


def _read_description(described: Mapping[str, Any], where: str) -> _Description:
    try:
        values = described["encoder"] | {"options": described["backbone"]}
        modality, dim = Modality(described["modality"]), int(described["embedding_dim"])
        config = parse_config(EncoderConfig, values, "encoder")
    except (KeyError, TypeError, ValueError, OverflowError, ConfigurationError) as error:
        fault = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{where}: not the description of an encoder: {fault}") from None
    if config.pretrained is not None:
        raise DataError(
            f"{where}: names pretrained weights {config.pretrained!r}; a model folder holds its weights itself, and"
            " nothing is fetched for it"
        )
    return _Description(config, modality, dim)


def _read_words(tokenizer: bytes | None, modality: Modality, source: str) -> Tokenizer | None:
    words = None if tokenizer is None else read_tokenizer(tokenizer, f"{source}/tokenizer.json")
    if modality is Modality.TEXT and words is None:
        raise DataError(f"{source}/tokenizer.json: is missing")
    return words


def _look_at_sizes(given: _Description, words: Tokenizer | None, room: Room, source: str) -> None:
    """Raise DataError for an encoder that is far larger than its weights, seen where tensors have shapes and no memory:
    some families fill one before they show it. What cannot be made there is made as it is."""
    looked_at = sha256_of(repr((given, room.numbers)).encode())
    if looked_at in _fitting:
        return
    try:
        with torch.device("meta"):
            SampleEncoder(given.config, given.modality, dim=given.dim, tokenizer=words, room=room)
    except RoomError as error:
        raise DataError(f"{source}/config.json: {error}") from None
    except Exception:  # of a family that needs numbers to be made
        return
    _fitting[looked_at] = None
    while len(_fitting) > _MOST_FITTING:
        del _fitting[next(iter(_fitting))]


def _rows_of_tokens(encoder: Encoder) -> int | None:
    """How many tokens a text encoder's embedding has a row for; None where that is not known."""
    backbone: Any = encoder.backbone
    if isinstance(backbone, BiGru):
        return backbone.embedding.num_embeddings
    model: Any = getattr(backbone, "model", None)
    try:
        embedding = getattr(model, "text_model", model).get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def _self_contained(config: EncoderConfig, modality: Modality, encoder: Encoder) -> EncoderConfig:
    """The configuration that builds the same encoder, reading the same input, with nothing pretrained at hand."""
    changes: dict[str, Any] = {"pretrained": None}
    if modality is Modality.IMAGE:
        changes |= image_reading(config)
    model_config: Any = getattr(getattr(encoder.backbone, "model", None), "config", None)
    if config.projection == "own":
        changes["options"] = half_options(model_config, modality)
    elif config.architecture == AUTO:
        changes["options"] = self_options(model_config)
    elif hasattr(model_config, "to_diff_dict"):
        changes["options"] = plain_options(model_config)
    return config.model_copy(update=changes)


def _preprocessor(config: EncoderConfig) -> dict[str, Any]:
    """What a transformers image processor calls the way pixels are read here."""
    fit = fit_of(config)
    side = {"height": fit.size, "width": fit.size}
    resize: dict[str, Any] = {"do_resize": True, "size": side, "resample": Image.Resampling[fit.interpolation.upper()]}
    if fit.crop:
        resize |= {"size": {"shortest_edge": fit.shortest}, "do_center_crop": True, "crop_size": side}
    scale = {"do_rescale": True, "rescale_factor": 1 / 255, "image_mean": config.image_mean}
    return resize | {"do_normalize": True, "image_std": config.image_std} | scale


@torch.inference_mode()
def encode_all(encoder: SampleEncoder, rows: Tensor, device: torch.device) -> NDArray[np.float32]:
    """Unit rows [n, D] of all samples, in eval mode; the encoder's mode stays as it was."""
    training = encoder.training
    encoder.eval()
    # The result comes back once, at the end: each copy from a GPU would wait for it.
    rows_encoded = batches_worked(lambda batch: encoder(batch).vector_BD, rows, device)
    encoder.train(training)
    encoded: NDArray[np.float32] = rows_encoded.cpu().numpy()
    return encoded
