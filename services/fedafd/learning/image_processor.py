"""How pretrained weights want images to be read: size and crop, interpolation, mean and deviation.

Read from preprocessor_config.json, in the words of transformers' image processors, or from timm's part of config.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from PIL import Image

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.pretrained import missing_weights, source_of

__all__ = ["image_reading", "pixel_scale"]

Channels = tuple[float, float, float]
_HALF, _QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
_SQUEEZED, _BILINEAR = 0.0, "bilinear"
_ENLARGE = ("ConvNext", "Levit")
"""Processors that resize to more than their `size` and crop to it."""
_SCALE = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
_DEFAULTS = (
    *("do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "crop_pct"),
    *_SCALE,
)
_LARGE = 384
"""From here on ConvNext's processor squeezes."""


def image_reading(config: EncoderConfig) -> dict[str, Any]:
    """The fields of an encoder's configuration that say how images are read, with the folder's where they are open.

    Raises ConfigurationError for a folder that cannot be read, or wants what is not known here.
    """
    mean, std = pixel_scale(config)
    reading: dict[str, Any] = {"image_mean": mean, "image_std": std}
    if config.pretrained is None or None not in (config.image_crop, config.image_interpolation):
        return reading
    values = _preprocessor(config)
    crop = _crop(config, values) if config.image_crop is None else config.image_crop
    interpolation = config.image_interpolation or _interpolation(config, values)
    return reading | {"image_crop": crop, "image_interpolation": interpolation}


def pixel_scale(config: EncoderConfig) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel of pixels in 0 .. 1 that the backbone expects.

    The configuration's own, else those of the pretrained folder's preprocessor_config.json, else 0.5 and 0.25.
    """
    if config.image_mean is not None and config.image_std is not None:
        return config.image_mean, config.image_std
    values = _preprocessor(config) if config.pretrained is not None else {}
    try:
        mean, std = _scale(values) if values else (_HALF, _QUARTER)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ConfigurationError(
            f"weights {config.pretrained!r}: no scale of pixels follows from {_shown(values, _SCALE)}; set `image_mean`"
            " and `image_std` of the image encoder"
        ) from None
    return config.image_mean or mean, config.image_std or std


def _scale(values: Mapping[str, Any]) -> tuple[Channels, Channels]:
    """Mean and deviation of pixels / 255, where the folder speaks of pixels times its own factor."""
    factor = float(values.get("rescale_factor", 1 / 255)) * 255 if values.get("do_rescale", True) else 255.0
    mean, std = values.get("image_mean") or _HALF, values.get("image_std") or _HALF
    if not values.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    pairs = zip(_channels(mean), _channels(std), strict=True)
    red, green, blue = ((float(m) / factor, float(s) / factor) for m, s in pairs)
    if not all(isfinite(m) and isfinite(s) and s > 0 for m, s in (red, green, blue)):
        raise ValueError("a mean or a deviation that no pixel can be scaled by")
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _channels(value: Any) -> Any:
    """One number counts for all three channels."""
    return [value] * 3 if isinstance(value, int | float) else value


def _shown(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _interpolation(config: EncoderConfig, values: Mapping[str, Any]) -> str:
    named = values.get("interpolation") or values.get("resample")
    if named is None:
        return _BILINEAR
    try:
        return (Image.Resampling[named.upper()] if isinstance(named, str) else Image.Resampling(named)).name.lower()
    except (KeyError, ValueError):
        raise ConfigurationError(
            f"weights {config.pretrained!r}: images are to be resized in a way that is not known here:"
            f" {_shown(values, ('resample', 'interpolation'))}; set `image_interpolation` of the image encoder, such as"
            " bicubic"
        ) from None


def _crop(config: EncoderConfig, values: Mapping[str, Any]) -> float:
    try:
        share = _timm_share(values) if "crop_pct" in values and "crop_mode" in values else _share(values)
    except (TypeError, ValueError, ZeroDivisionError, KeyError):
        share = None
    if share is None or not 0 <= share <= 1:
        shown = _shown(values, ("size", "crop_size", "crop_pct", "crop_mode"))
        raise ConfigurationError(
            f"weights {config.pretrained!r}: images are to be cut in a way that is not known here: {shown}; set"
            " `image_crop` of the image encoder: 0 squeezes, 0.875 crops as is usual"
        )
    return share


def _share(values: Mapping[str, Any]) -> float | None:
    """What transformers' processors do: `size` is two sides, or the shorter one, of which `crop_size` is kept."""
    size = values.get("size")
    if size is None or not values.get("do_resize", True):
        return _SQUEEZED
    kind = _kind(values)
    crops = bool(values.get("do_center_crop", False))
    sides = size if isinstance(size, Mapping) else {}
    squares = values.get("default_to_square", not crops) and not kind.startswith(_ENLARGE)
    shorter = sides.get("shortest_edge") if sides else None if squares else size
    if shorter is None:
        side, kept = _side(size), _side(values.get("crop_size", size))
        return _SQUEEZED if not crops or side == kept else None
    if kind.startswith(_ENLARGE):
        enlarged = kind.startswith("Levit") or shorter < _LARGE
        return float(values.get("crop_pct") or 224 / 256) if enlarged else _SQUEEZED
    return _side(values.get("crop_size", shorter)) / float(shorter) if crops else 1.0


def _side(size: Any) -> float:
    return float(size["height"] if isinstance(size, Mapping) else size)


def _timm_share(values: Mapping[str, Any]) -> float | None:
    share = float(values["crop_pct"])
    if values["crop_mode"] == "squash":
        return _SQUEEZED if share == 1 else None
    return share if values["crop_mode"] == "center" else None


def _preprocessor(config: EncoderConfig) -> dict[str, Any]:
    assert config.pretrained is not None
    from transformers.utils.hub import cached_file

    name, revision = source_of(config.pretrained)
    try:
        path = cached_file(
            name,
            "preprocessor_config.json",
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
        )
        values: Any = json.loads(Path(path).read_text(encoding="utf-8")) if path is not None else {}
        if not isinstance(values, dict):
            raise ValueError("preprocessor_config.json is not an object of keys and values")
        return _defaults(values) | values if values else _timm_values(config)
    except (OSError, ValueError, RecursionError) as error:
        raise missing_weights(config, Modality.IMAGE, error) from None


def _defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the processor that a file names does where the file is silent; nothing where transformers has none."""
    import transformers

    processor = getattr(transformers, f"{_kind(values)}Pil", None)
    try:
        defaults = {name: getattr(processor, name, None) for name in _DEFAULTS}
    except ImportError:  # what stands for a class that lacks a library
        return {}
    return {name: value for name, value in defaults.items() if value is not None}


def _kind(values: Mapping[str, Any]) -> str:
    """The processor's name, however old the file is."""
    named = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    return named.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")


def _timm_values(config: EncoderConfig) -> dict[str, Any]:
    """timm keeps what it does to pixels in the folder's config.json; where it is silent, its defaults hold."""
    from transformers import PreTrainedConfig

    assert config.pretrained is not None
    name, revision = source_of(config.pretrained)
    kept = PreTrainedConfig.get_config_dict(name, revision=revision)[0].get("pretrained_cfg") or {}
    if "mean" not in kept or "std" not in kept:
        return {}
    return {
        "image_mean": kept["mean"],
        "image_std": kept["std"],
        "crop_pct": kept.get("crop_pct") or 0.875,
        "crop_mode": kept.get("crop_mode") or "center",
        "interpolation": kept.get("interpolation") or "bicubic",
    }
