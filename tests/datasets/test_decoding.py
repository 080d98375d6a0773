"""One decoder: in every format and mode of Pillow the pixels are the picture's, or the file is refused by name."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fedafd.datasets.decoding import MAX_PIXELS, as_rgb, decode_image, has_several_frames, to_rgb
from fedafd.domain.errors import DataError

Floats = NDArray[np.float64]
WIDTH, HEIGHT = 6, 5


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def near(made: NDArray[np.uint8], expected: Floats, *, within: float = 1.0) -> None:
    shown = np.broadcast_to(expected if expected.ndim == 3 else expected[:, :, None], made.shape)
    assert made.dtype == np.uint8
    assert np.abs(made.astype(np.float64) - shown).max() <= within


def on_white(rgb: NDArray[Any], opacity: NDArray[Any]) -> Floats:
    share = opacity.astype(np.float64)[:, :, None] / 255
    return np.asarray(rgb, dtype=np.float64) * share + 255.0 * (1 - share)


def noise(seed: int, channels: int = 3) -> NDArray[np.uint8]:
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# -- formats and modes -----------------------------------------------------------------------------------------------

LOSSLESS = {
    "1": ("PNG", "TIFF", "BMP", "PPM", "GIF"),
    "L": ("PNG", "TIFF", "BMP", "PPM", "GIF", "JPEG2000"),
    "LA": ("PNG", "TIFF", "JPEG2000"),
    "P": ("PNG", "TIFF", "BMP", "GIF"),
    "RGB": ("PNG", "TIFF", "BMP", "PPM", "WEBP", "JPEG2000"),
    "RGBA": ("PNG", "TIFF", "WEBP", "JPEG2000"),
    "CMYK": ("TIFF",),
    "YCbCr": ("TIFF",),
    "LAB": ("TIFF",),
    "I": ("TIFF",),
    "I;16": ("PNG", "TIFF", "PPM", "JPEG2000"),
    "I;16B": ("TIFF", "PNG"),
    "F": ("TIFF", "PPM"),
}
CASES = sorted((mode, form) for mode, forms in LOSSLESS.items() for form in forms)
SAVED = {"WEBP": {"lossless": True, "exact": True}, "JPEG2000": {"irreversible": False}}


def example(mode: str, seed: int) -> tuple[Image.Image, Floats]:
    """An image of a mode, and the RGB or grey that it shows, computed in float64."""
    rgb = noise(seed)
    grey = rgb[:, :, 0]
    if mode == "1":
        return Image.fromarray(grey).convert("1", dither=Image.Dither.NONE), np.where(grey >= 128, 255.0, 0.0)
    if mode == "L":
        return Image.fromarray(grey), grey.astype(np.float64)
    if mode == "LA":
        both = np.stack([grey, rgb[:, :, 1]], axis=2)
        return Image.fromarray(both, "LA"), on_white(both[:, :, :1], both[:, :, 1])
    if mode == "P":
        image = Image.fromarray(rgb).quantize(8)
        palette = np.array(image.getpalette()).reshape(-1, 3)
        return image, palette[np.asarray(image)].astype(np.float64)
    if mode == "RGBA":
        four = noise(seed, 4)
        return Image.fromarray(four), on_white(four[:, :, :3], four[:, :, 3])
    if mode == "CMYK":
        four = noise(seed, 4).astype(np.float64)
        shown = (255 - four[:, :, :3]) * (255 - four[:, :, 3:]) / 255
        return Image.fromarray(four.astype(np.uint8), "CMYK"), shown
    if mode == "YCbCr":
        image = Image.fromarray(rgb).convert("YCbCr")
        y, b, r = (
            part - (128.0 if n else 0.0) for n, part in enumerate(np.asarray(image, np.float64).transpose(2, 0, 1))
        )
        shown = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=2)
        return image, np.clip(shown, 0, 255)
    if mode == "LAB":
        smooth = (rgb // 2 + 64).astype(np.uint8)
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        made = ImageCms.profileToProfile(Image.fromarray(smooth), *profiles, outputMode="LAB")
        assert made is not None
        return made, smooth.astype(np.float64)
    deep = np.random.default_rng(seed).integers(0, 65536, (HEIGHT, WIDTH))
    deep[0, 0] = 60000
    if mode == "F":
        return Image.fromarray((deep / 65535).astype(np.float32)), deep * 255.0 / 65535
    if mode == "I":
        return Image.fromarray(deep.astype(np.int32)), deep * 255.0 / 65535
    kind = "<u2" if mode == "I;16" else ">u2"
    return Image.frombytes(mode, (WIDTH, HEIGHT), deep.astype(kind).tobytes()), deep * 255.0 / 65535


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize(("mode", "form"), CASES)
def test_every_mode_in_every_format_shows_the_same_values(mode: str, form: str, seed: int) -> None:
    if mode == "RGB":
        image, shown = Image.fromarray(noise(seed)), noise(seed).astype(np.float64)
    else:
        image, shown = example(mode, seed)
    options: dict[str, Any] = {"intensity_range": (0.0, 65535.0)} if mode == "I" else {}
    within = {"LAB": 16.0, "YCbCr": 2.0}.get(mode, 1.01)
    near(decode_image(encoded(image, form, **SAVED.get(form, {})), "x", **options), shown, within=within)
    near(to_rgb(image, "x", **options), shown, within=within)


@pytest.mark.parametrize("mode", ["HSV", "RGBX", "La", "RGBa", "PA"])
def test_modes_that_no_file_has_are_read_from_memory(mode: str) -> None:
    rgb = noise(3)
    four = np.dstack([rgb, np.full((HEIGHT, WIDTH), 128, dtype=np.uint8)])
    if mode in ("HSV", "RGBX"):
        near(to_rgb(Image.fromarray(rgb).convert(mode), "x"), rgb.astype(np.float64), within=6.0)
    elif mode == "PA":
        image = Image.fromarray(rgb).quantize(4).convert("PA")
        near(to_rgb(image, "x"), np.asarray(image.convert("RGB"), np.float64))
    else:
        shown = Image.fromarray(four).convert("LA" if mode == "La" else "RGBA")
        parts = np.asarray(shown)
        near(to_rgb(shown.convert(mode), "x"), on_white(parts[:, :, :-1], parts[:, :, -1]), within=2.0)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_lossy_formats_come_near(mode: str, form: str) -> None:
    if (mode, form) not in {("CMYK", "WEBP"), ("CMYK", "AVIF")}:
        smooth = np.add.outer(np.arange(32), 4 * np.arange(32)).astype(np.uint8)
        image = Image.fromarray(np.repeat(smooth[:, :, None], 3, axis=2)).convert(mode)
        near(decode_image(encoded(image, form, quality=95), "x"), smooth.astype(np.float64), within=8)


@pytest.mark.parametrize("maxval", [3, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_is_scaled_by_its_own_white(maxval: int, plain: bool) -> None:
    values = np.random.default_rng(maxval).integers(0, maxval + 1, (HEIGHT, WIDTH))
    values[0, 0] = maxval
    head = f"P{2 if plain else 5} {WIDTH} {HEIGHT} {maxval}\n".encode()
    body = (
        " ".join(map(str, values.ravel())).encode()
        if plain
        else values.astype(">u2" if maxval > 255 else "u1").tobytes()
    )
    near(decode_image(head + body, "x.pgm"), values * 255.0 / maxval)
    if maxval > 255:
        half = decode_image(head + body, "x.pgm", intensity_range=(0, maxval // 2))
        near(half, np.clip(values * 255.0 / (maxval // 2), 0, 255))


JPEG_2000_OF_12_BITS = (
    "/0//UQApAAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAABCwEB/1IADAAAAAEABQQEAAH/XAATQGBoaHBoaHBoaHBoaHBoaHD/ZAAl"
    "AAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjL/kAAKAAAAAADuAAH/k8/kDAbof8A+oCn+AKD9gIAEDwOQCITP8A8fyDx/gIANlILB"
    "QgHnCZ5DUJ4GVw1y4LBySSqfw/YSn+A+D9gsHZKuv1CC8tqwxLLZQ5ilD+d/DHUgJC1+I2DpwJBNxvCfG88aBovj6KyehCHH8jE/wLw/kKBQQpYK"
    "cMqVdCOVBQIHLSRx6M45t7NoG40AzzXq5or6SwRlrGE7CSLWJCfMsHZ25yn+YM5Ct4ODWwrH8i8/wIQfsCCWBefzrJJlChr7i94FgcT8yID7/vo6"
    "QYUe7P8g0LQaOGAi4TSjlRuFIHCp/9k="
)
"""As OpenJPEG makes it; Pillow writes 8 and 16 bits only. Values 0 above, 4095 below, and 1000 from column 20 on."""


def test_jpeg_2000_of_12_bits_is_scaled_by_its_depth_and_takes_a_range_in_its_own_unit() -> None:
    values = np.zeros((32, 32))
    values[16:], values[:, 20:] = 4095, 1000
    content = base64.b64decode(JPEG_2000_OF_12_BITS)
    near(decode_image(content, "x.j2k"), values * 255.0 / 4095)
    near(decode_image(content, "x.j2k", intensity_range=(500, 3000)), np.clip((values - 500) * 255 / 2500, 0, 255))


def png(depth: int, colour: int, rows: NDArray[Any], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand, for depths that Pillow does not write; `rows` are bytes [h, n]."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [chunk(b"IHDR", head), *(chunk(*c) for c in chunks), chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_a_colour(colour: int, channels: int) -> None:
    deep = np.random.default_rng(5).integers(0, 65536, (HEIGHT, WIDTH, channels))
    content = png(16, colour, deep.astype(">u2").reshape(HEIGHT, -1))
    shown = deep * 255.0 / 65535
    rgb = shown[:, :, :3] if channels > 2 else shown[:, :, :1]
    near(decode_image(content, "x"), on_white(rgb, shown[:, :, -1]) if channels != 3 else shown, within=2.0)
    with pytest.raises(DataError, match="x: uses 12 bits or fewer"):
        decode_image(png(16, 2, (deep[:, :, [0, 0, 0]] % 4096).astype(">u2").reshape(HEIGHT, -1)), "x")


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
def test_the_clear_shade_of_a_grey_png_is_white(depth: int) -> None:
    top = 2**depth - 1
    values = np.random.default_rng(depth).integers(0, top + 1, (HEIGHT, WIDTH))
    values[1] = values[1, 0]
    values[0, 0] = top
    if depth < 8:
        padded = np.pad(values, ((0, 0), (0, -WIDTH % (8 // depth)))).reshape(HEIGHT, -1, 8 // depth)
        rows = (padded << np.arange(8 - depth, -1, -depth)).sum(axis=2).astype(np.uint8)
    else:
        rows = values.astype(">u2" if depth == 16 else "u1")
    content = png(depth, 0, rows, (b"tRNS", struct.pack(">H", int(values[1, 0]))))
    near(decode_image(content, "x"), np.where(values == values[1, 0], 255.0, values * 255.0 / top))


@pytest.mark.parametrize("depth", [8, 16])
def test_the_clear_colour_of_a_png_is_white(depth: int) -> None:
    values = np.random.default_rng(depth).integers(0, 2**depth, (HEIGHT, WIDTH, 3))
    values[2] = values[2, 0]
    clear = struct.pack(">3H", *(int(part) for part in values[2, 0]))
    content = png(depth, 2, values.astype(">u2" if depth == 16 else "u1").reshape(HEIGHT, -1), (b"tRNS", clear))
    shown = values * 255.0 / (2**depth - 1)
    shown[2] = 255.0
    near(decode_image(content, "x"), shown)


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP"])
def test_a_hidden_colour_does_not_show(form: str) -> None:
    four = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    four[:, :, [0, 2]] = 255
    four[:2, :, 3] = 255
    image = Image.fromarray(four)
    if form == "PNG":
        image = image.quantize(4)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    near(decode_image(encoded(image, form, **options), "x"), on_white(four[:, :, :3], four[:, :, 3]))


def test_a_tiff_whose_white_is_zero_is_not_read_as_a_negative() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH)).astype("<u2")
    content = encoded(Image.frombytes("I;16", (WIDTH, HEIGHT), values.tobytes()), "TIFF", tiffinfo={262: 0})
    near(decode_image(content, "x"), 255 - values * 255.0 / 65535)


# -- orientation, frames ---------------------------------------------------------------------------------------------

UPRIGHT = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2)}
UPRIGHT |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, 1)}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_the_cameras_orientation_is_applied_once(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    smooth = np.zeros((32, 48, 3), dtype=np.uint8)
    smooth[:16, :16], smooth[:16, 32:] = (250, 0, 0), (0, 0, 250)
    choices: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"subsampling": 0, "quality": 95}}
    content = encoded(Image.fromarray(smooth), form, exif=exif, **choices.get(form, {}))
    expected = UPRIGHT[orientation](smooth).astype(np.float64)
    within = 60.0 if form == "JPEG" else 0.0
    near(decode_image(content, "x"), expected, within=within)
    with Image.open(io.BytesIO(content)) as image:
        near(to_rgb(image, "x"), expected, within=within)


def test_a_deep_picture_is_turned_too_and_a_garbled_exif_turns_nothing() -> None:
    exif = Image.Exif()
    exif[274] = 6
    deep = (np.arange(30, dtype=np.uint16) * 2000).reshape(5, 6)
    near(decode_image(encoded(Image.fromarray(deep), "PNG", exif=exif), "x"), np.rot90(deep, -1) * 255.0 / 65535)
    near(decode_image(encoded(Image.fromarray(noise(1)), "PNG", exif=b"Exif\0\0garbled"), "x"), noise(1).astype(float))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_of_several_frames_is_taken_and_the_others_are_noticed(form: str) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **SAVED.get(form, {}))
    near(decode_image(content, "x"), np.asarray(frames[0], np.float64))
    assert has_several_frames(content, "x")
    assert not has_several_frames(encoded(frames[0], form), "x")


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS pointer.*git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"  <!DOCTYPE html><html>gone</html>", "a web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00", "AppleDouble"),
        (encoded(Image.new("RGB", (16, 16)), "ICO"), "an icon"),
        (encoded(Image.new("RGB", (16, 16)), "TGA"), "none of JPEG, PNG"),
        (encoded(Image.new("RGB", (64, 64), "red"), "JPEG")[:-40], "truncated"),
    ],
)
def test_what_is_no_picture_is_refused_by_name_with_what_it_is(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a picture.png: not a readable image \(.*{match}"):
        as_rgb(path)


def test_an_image_opened_by_the_caller_starts_no_other_program() -> None:
    content = encoded(Image.new("RGB", (8, 8)), "EPS")
    with Image.open(io.BytesIO(content)) as image, pytest.raises(DataError, match="x: EPS is not read"):
        to_rgb(image, "x")


@pytest.mark.parametrize("side", [8193, 10_000, 20_000])
def test_a_picture_beyond_the_budget_is_refused_before_it_is_decoded(side: int) -> None:
    content = encoded(Image.new("1", (side, 8192)), "PNG")
    assert side * 8192 > MAX_PIXELS
    with pytest.raises(DataError, match=r"^big.png: .*(more than 67108864|decompression bomb)"):
        decode_image(content, "big.png")


# -- arrays, paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float64"])
def test_arrays_are_read_by_the_same_rules(channels: int, kind: str) -> None:
    eight = noise(channels, channels)
    top = {"uint8": 255, "uint16": 65535, "float64": 1.0}[kind]
    array = (eight.astype(np.float64) * (top / 255)).astype(kind)
    wide = eight.reshape(HEIGHT, WIDTH, -1)
    shown = wide.astype(np.float64) if channels in (1, 3) else on_white(wide[:, :, :-1], wide[:, :, -1])
    near(as_rgb(array, "x"), shown)


@pytest.mark.parametrize("array", [np.zeros(4), np.zeros((0, 4, 3)), np.zeros((4, 4, 5)), np.zeros((1, 4, 4, 3))])
def test_arrays_of_other_shapes_are_refused(array: NDArray[Any]) -> None:
    with pytest.raises(DataError, match=r"x: an image array must be \[h, w\]"):
        as_rgb(array, "x")
    with pytest.raises(DataError, match="image: neither a Pillow image"):
        as_rgb(7)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="nowhere.png: cannot be read"):
        as_rgb("nowhere.png")
