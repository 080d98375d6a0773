"""Options that name the pretrained weights a command starts from: a hub id, or a folder for machines without a hub."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from fedafd.domain.errors import ConfigurationError

__all__ = ["IMAGE_WEIGHTS", "TEXT_WEIGHTS", "Trainable", "chosen_encoders", "named_weights"]

IMAGE_WEIGHTS = "Folder or hub id of the image encoder's pretrained weights, in place of those that are configured."
TEXT_WEIGHTS = "Folder or hub id of the text encoder's pretrained weights, in place of those that are configured."


class Trainable(StrEnum):
    """What is trained of a pretrained encoder, as `trainable` of `federation.yaml` says it."""

    HEAD = "head"
    LORA = "lora"


def named_weights(image: str | None, text: str | None) -> dict[str, str]:
    """What was given, by the encoder's key in `federation.yaml`; folders by their absolute path.

    Raises ConfigurationError for an empty name, as of a variable of the shell that is not set.
    """
    given = {"image_encoder": (image, "--image-weights"), "text_encoder": (text, "--text-weights")}
    named = {}
    for key, (source, option) in given.items():
        if source is None:
            continue
        if not source.strip():
            raise ConfigurationError(f"{option}: is empty; give a folder or a hub id, or leave the option out")
        named[key] = str(Path(source).absolute()) if Path(source).is_dir() else source
    return named


def chosen_encoders(image: str | None, text: str | None, trainable: Trainable | None) -> dict[str, dict[str, str]]:
    """Blocks of both encoders with what was given alone, by their keys in `federation.yaml`.

    Raises ConfigurationError as `named_weights`.
    """
    encoders: dict[str, dict[str, str]] = {}
    for key, source in named_weights(image, text).items():
        encoders[key] = {"pretrained": source}
    for key in ("image_encoder", "text_encoder") if trainable is not None else ():
        encoders.setdefault(key, {})["trainable"] = str(trainable)
    return encoders
