"""Tiny dual encoders as hubs hold them: weights, tokenizer and processor in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.learning.tiny import tiny_public
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WIDTH = 16
TOKENS = 12
_SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
_PATCHES = _SMALL | {"image_size": 32, "patch_size": 8}
_CLOSED_BY_PADDING = {"clip", "siglip"}
"""Families whose tokenizers close a text with the token that then pads it."""
FAMILIES: dict[str, dict[str, Any]] = {
    "clip": {"projection_dim": WIDTH},
    "siglip": {},
    "chinese_clip": {"projection_dim": WIDTH},
    "vision-text-dual-encoder": {"projection_dim": WIDTH},
}


def save_dual_encoder(kind: str, folder: Path) -> Any:
    """Save one of FAMILIES; returns the transformers model."""
    words = _save_tokenizer(folder, closed_by_padding=kind in _CLOSED_BY_PADDING, masks=kind != "siglip")
    text: dict[str, Any] = _SMALL | words | {"max_position_embeddings": TOKENS}
    image: dict[str, Any] = dict(_PATCHES)
    if kind == "vision-text-dual-encoder":
        text, image = text | {"model_type": "bert"}, image | {"model_type": "vit"}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, text_config=text, vision_config=image, **FAMILIES[kind])
    model = transformers.AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    pixels = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return model


def _save_tokenizer(folder: Path, *, closed_by_padding: bool, masks: bool) -> dict[str, int]:
    """Of the tiny public set's words; what a model's configuration says of it."""
    known = sorted({word for texts in tiny_public()["train"].captions for text in texts for word in text.split()})
    words = ["[UNK]", "<start>", *known, "<pad>", "<end>"]
    ids = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", ids["<end>"])]
    )
    padding = "<end>" if closed_by_padding else "<pad>"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        bos_token="<start>",
        eos_token="<end>",
        pad_token=padding,
        model_input_names=["input_ids", "attention_mask"] if masks else ["input_ids"],
    ).save_pretrained(folder)
    return {"vocab_size": len(words), "bos_token_id": 1, "eos_token_id": ids["<end>"], "pad_token_id": ids[padding]}
