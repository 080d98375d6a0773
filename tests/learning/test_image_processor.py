"""Images are read as the checkpoint's own processor reads them: size, crop, interpolation, mean and deviation."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.learning.test_automatic import IMAGES, saved

from fedafd.datasets.image_fit import ImageFit
from fedafd.datasets.pixels import KeptImages, PixelCache, resized_all
from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.image_processor import image_reading
from fedafd.learning.inputs import Reader
from fedafd.learning.sample_encoder import SampleEncoder

STEP = 1 / 255 / 0.2 + 1e-4
"""One level of a channel, brought to scale: two programs may round a pixel to either side."""
SCALE = {"do_rescale": True, "do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
CUT = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
PROCESSORS: dict[str, dict[str, Any]] = {
    "clip": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "resample": 3} | CUT,
    "dinov2": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 36}, "resample": 3} | CUT,
    "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}, "resample": 3},
    "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.875},
    "lanczos": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 40}, "resample": 1} | CUT,
}
PICTURES = [
    np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    for seed, size in enumerate([(50, 70), (90, 41), (32, 32), (20, 25), (64, 64), (33, 300)])
]


def folder_of(folder: Path, values: dict[str, Any]) -> str:
    saved(folder, "convnext", IMAGES["convnext"])
    (folder / "preprocessor_config.json").write_text(json.dumps(SCALE | {"do_resize": True} | values))
    return str(folder)


def encoder_of(folder: str, **options: Any) -> SampleEncoder:
    config = EncoderConfig(architecture="auto", pretrained=folder, image_size=32, **options)
    return SampleEncoder(config, Modality.IMAGE, dim=8).eval()


def pixels_of(encoder: SampleEncoder, samples: Any) -> torch.Tensor:
    return encoder._scaled(encoder.read(samples))


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_equal_those_of_transformers_own_processor_wherever_they_are_read(kind: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, PROCESSORS[kind])
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    expected = torch.from_numpy(
        np.stack([processor([each], return_tensors="np")["pixel_values"][0] for each in PICTURES])
    )
    encoder = encoder_of(folder)
    torch.testing.assert_close(pixels_of(encoder, PICTURES), expected.float(), atol=STEP, rtol=0)
    # Of its own folder, decoded once, and as users hand images in.
    again = SampleEncoder.from_files(encoder.to_files())
    assert again.config == encoder.config
    read = encoder.read(PICTURES)
    assert torch.equal(again.read(KeptImages(PICTURES)), read)
    ((_, (handed_in,)),) = Reader([again]).batches([png(each) for each in PICTURES])
    assert torch.equal(handed_in, read)
    # What we write beside the weights says the same to transformers.
    written = json.loads(encoder.to_files()["preprocessor_config.json"])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    assert image_reading(EncoderConfig(architecture="auto", pretrained=folder)) == image_reading(encoder.config) | {
        "image_crop": pytest.approx(encoder.config.image_crop, abs=0.03),
        "image_interpolation": encoder.config.image_interpolation,
    }


def png(image: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("mode", "share", "interpolation"),
    [
        ("center", 0.875, "bicubic"),
        ("center", 0.95, "bilinear"),
        ("center", 1.0, "bicubic"),
        ("squash", 1.0, "bicubic"),
    ],
)
def test_pixels_equal_those_of_timms_own_transform(mode: str, share: float, interpolation: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra `vision` is not installed")
    from timm.models import save_for_hf

    torch.manual_seed(0)
    cut = {"crop_mode": mode, "crop_pct": share, "interpolation": interpolation, "input_size": (3, 32, 32)}
    model = timm.create_model("test_efficientnet", pretrained=False, pretrained_cfg_overlay=cut).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    # timm's middle is half a pixel further where the margin is odd: these margins are even.
    pictures = [each for each in PICTURES if each.shape[0] in (32, 64)]
    expected = torch.stack([transform(Image.fromarray(each)) for each in pictures])
    torch.testing.assert_close(pixels_of(encoder_of(str(tmp_path)), pictures), expected, atol=STEP, rtol=0)


def test_the_configuration_wins_over_the_processor(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, PROCESSORS["dinov2"])
    encoder = encoder_of(folder, image_crop=0, image_interpolation="nearest")
    assert torch.equal(
        encoder.read(PICTURES), torch.from_numpy(resized_all(PICTURES, ImageFit(size=32, interpolation="nearest")))
    )
    half = encoder_of(folder, image_interpolation="box")
    assert (half.config.image_crop, half.config.image_interpolation) == (32 / 36, "box")


@pytest.mark.parametrize(
    "values",
    [
        {"size": {"height": 40, "width": 40}} | CUT,
        {"size": {"shortest_edge": 20}} | CUT,
        {"size": {"shortest_edge": 0}} | CUT,
        {"size": {"shortest_edge": "x"}} | CUT,
        {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {}},
        {"size": [32]},
    ],
    ids=str,
)
def test_cut_that_is_not_known_is_refused_until_it_is_set(values: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tmp_path, values)
    with pytest.raises(ConfigurationError, match="set `image_crop`"):
        encoder_of(folder)
    assert encoder_of(folder, image_crop=0.5).config.image_crop == 0.5


@pytest.mark.parametrize(
    ("values", "crop"),
    [
        ({}, 0.0),
        ({"do_resize": False, "size": {"shortest_edge": 40}}, 0.0),
        ({"size": 32}, 0.0),
        ({"size": 40, "do_center_crop": True, "crop_size": 32}, 0.8),
        ({"size": {"shortest_edge": 32}}, 1.0),
        ({"size": 32, "feature_extractor_type": "ConvNextFeatureExtractor"}, 224 / 256),
        ({"size": {"shortest_edge": 384}, "image_processor_type": "ConvNextImageProcessor"}, 0.0),
    ],
    ids=str,
)
def test_older_and_rarer_ways_to_say_a_cut(values: dict[str, Any], crop: float, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SCALE | values))
    config = EncoderConfig(architecture="resnet", pretrained=str(tmp_path))
    assert image_reading(config)["image_crop"] == crop


def test_cache_keeps_each_way_to_read_an_image_apart(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, limit_bytes=10**9)
    fits = [ImageFit(size=16), ImageFit(size=16, crop=0.875), ImageFit(size=16, crop=0.875, interpolation="bicubic")]
    for fit in [*fits, *fits]:
        again = PixelCache(tmp_path, limit_bytes=10**9)
        np.testing.assert_array_equal(cache.pixels("k", PICTURES, fit), resized_all(PICTURES, fit))
        np.testing.assert_array_equal(again.pixels("k", PICTURES, fit), resized_all(PICTURES, fit))
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_a_line_of_pixels_takes_no_more_memory_than_a_picture() -> None:
    line = np.zeros((1, 200_000, 3), dtype=np.uint8)
    assert ImageFit(size=64, crop=1.0).squared(line).shape == (64, 64, 3)
