"""Options that name the pretrained weights a command starts from: a hub id, or a folder for machines without a hub."""

from __future__ import annotations

from pathlib import Path

__all__ = ["IMAGE_WEIGHTS", "TEXT_WEIGHTS", "named_weights"]

IMAGE_WEIGHTS = "Folder or hub id of the image encoder's pretrained weights, in place of those that are configured."
TEXT_WEIGHTS = "Folder or hub id of the text encoder's pretrained weights, in place of those that are configured."


def named_weights(image: str | None, text: str | None) -> dict[str, str]:
    """What was given, by the encoder's key in `federation.yaml`; folders by their absolute path."""
    given = {"image_encoder": image, "text_encoder": text}
    return {
        key: str(Path(source).absolute()) if Path(source).is_dir() else source
        for key, source in given.items()
        if source
    }
