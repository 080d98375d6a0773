"""The one way from an image file, or an image in memory, to RGB pixels: uint8 [height, width, 3].

Adapters, public sets, `fedafd predict` and the models' `embed_images` all decode here, so that a picture has the same
pixels everywhere. The rules: the camera's orientation is applied; more than 8 bits are scaled by their depth or by
`intensity_range`, never clipped (see intensity.py); what is transparent lies on white; of several frames the first is
taken. What cannot be read by these rules is refused by name.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from fedafd.datasets.file_kinds import is_dicom, kind_of_content
from fedafd.datasets.intensity import IntensityRange, to_8_bits
from fedafd.datasets.stored_pixels import StoredPixels
from fedafd.domain.errors import DataError

__all__ = [
    "IMAGE_FORMATS",
    "MAX_FILE_BYTES",
    "MAX_JPEG2000_PIXELS",
    "MAX_PIXELS",
    "ImageArray",
    "as_rgb",
    "decode_image",
    "has_several_frames",
    "need_few_pixels",
    "to_rgb",
]

ImageArray = NDArray[np.uint8]

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is decoded, besides DICOM. Pillow knows more, among them formats that start other programs (EPS)."""
MAX_PIXELS = 1 << 26
"""The largest picture that is decoded: 67 million pixels, 8192 x 8192; its RGB takes 201 MB."""
MAX_JPEG2000_PIXELS = 1 << 24
"""The same of JPEG 2000, 4096 x 4096: its decoder takes 24 bytes a pixel of four channels, 1.6 GB for MAX_PIXELS."""
MAX_FILE_BYTES = 1 << 30
"""The longest file of a picture that is read: twice what the largest one takes with four channels of 16 bits."""

_STRIP_PIXELS = 1 << 22

_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    ImageCms.PyCMSError,
)
"""What Pillow's decoders raise for damaged files, found by mutating good ones."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientations: what to do to see the picture upright."""
_ORIENTATION = 274
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is lower


def decode_image(content: bytes, name: str, *, intensity_range: IntensityRange | None = None) -> ImageArray:
    """Decode an image file of one of IMAGE_FORMATS, or DICOM, to RGB. Raises DataError naming `name` for others."""
    if is_dicom(content, name):
        from fedafd.datasets.dicom import decode_dicom

        return decode_dicom(content, name, intensity_range=intensity_range)
    with _opened(content, name) as image:
        return to_rgb(image, name, intensity_range=intensity_range)


def to_rgb(image: Image.Image, name: str, *, intensity_range: IntensityRange | None = None) -> ImageArray:
    """A Pillow image, opened or made, as RGB by the rules of decode_image; it is not changed. Raises DataError."""
    if image.format not in (None, "MPO", *IMAGE_FORMATS):
        raise DataError(f"{name}: {image.format} is not read; known: {', '.join(IMAGE_FORMATS)}", name=name)
    is_jpeg2000 = image.format == "JPEG2000"
    need_few_pixels(image.width, image.height, name, MAX_JPEG2000_PIXELS if is_jpeg2000 else MAX_PIXELS)
    with _refusing(name):
        return _rgb(image, name, intensity_range)


def as_rgb(
    source: Image.Image | NDArray[Any] | bytes | str | Path,
    name: str = "",
    *,
    intensity_range: IntensityRange | None = None,
) -> ImageArray:
    """A Pillow image, a path, a file's content, or an array [h, w] or [h, w, 1 to 4] as RGB by the same rules.

    An array of two or four channels ends with its opacity. Raises DataError naming `name`, or the path.
    """
    if isinstance(source, str | Path):
        return decode_image(_content(Path(source)), name or str(source), intensity_range=intensity_range)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode_image(bytes(source), name or "image", intensity_range=intensity_range)
    if isinstance(source, Image.Image):
        return to_rgb(source, name or "image", intensity_range=intensity_range)
    if isinstance(source, np.ndarray):
        return _array_rgb(source, name or "image", intensity_range)
    raise DataError(f"{name or 'image'}: neither a Pillow image, a path, bytes nor an array: {type(source).__name__}")


def need_few_pixels(width: int, height: int, name: str, most: int = MAX_PIXELS) -> None:
    """Raise DataError for a picture of more pixels, before anything of it is decoded."""
    if width * height > most:
        raise DataError(
            f"{name}: not decoded, because {width} x {height} pixels are more than {most} (a decompression"
            " bomb?); make it smaller or remove it",
            name=name,
        )


def has_several_frames(content: bytes, name: str) -> bool:
    """Whether an image file holds frames or pages beyond the first, which is what is decoded. Raises DataError.

    The second picture in a photograph of a telephone (MPO) is the camera's own and does not count.
    """
    if is_dicom(content, name):
        return False
    with _opened(content, name) as image:
        try:
            return image.format != "MPO" and bool(getattr(image, "is_animated", False))
        except _DECODER_ERRORS:  # of a second frame that nobody needs
            return True


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise DataError(f"{path}: cannot be read: a pipe, socket or device")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: not read, because it has more than {MAX_FILE_BYTES} bytes; replace or remove it")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def _opened(content: bytes, name: str) -> Iterator[Image.Image]:
    try:
        image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        kind = kind_of_content(content) or f"none of {', '.join(IMAGE_FORMATS)}"
        raise DataError(f"{name}: not a readable image ({kind}); replace or remove it", name=name) from None
    except _DECODER_ERRORS as error:
        raise _unreadable(name, error) from None
    with image:
        yield image


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        yield
    except _DECODER_ERRORS as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: Exception) -> DataError:
    reason = str(error) or type(error).__name__
    return DataError(f"{name}: not a readable image ({reason}); replace or remove it", name=name)


def _rgb(image: Image.Image, name: str, given: IntensityRange | None) -> ImageArray:
    stored = StoredPixels.of(image)
    if stored.misread is not None:
        raise DataError(f"{name}: {stored.misread}, which is not read; save it as PNG", name=name)
    image.load()
    if image.mode in _DEEP_MODES:
        return _deep_rgb(image, stored, name, given)
    pixels = _pixels(_upright(image), stored.clear_shade(image))
    if ";16" in stored.raw_mode and 0 < pixels.max() < 16:
        raise DataError(
            f"{name}: uses 12 bits or fewer of its 16 a colour, so that it would come out black; save it with 8 bits",
            name=name,
        )
    return pixels


def _pixels(image: Image.Image, clear_shade: Any) -> ImageArray:
    """Strip by strip: the steps to RGB on white need five times the memory of what they make."""
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    rows = max(1, _STRIP_PIXELS // max(image.width, 1))
    for top in range(0, image.height, rows):
        below = min(top + rows, image.height)
        pixels[top:below] = np.asarray(_on_white(image.crop((0, top, image.width, below)), clear_shade))
    return pixels


def _deep_rgb(image: Image.Image, stored: StoredPixels, name: str, given: IntensityRange | None) -> ImageArray:
    values = np.asarray(_upright(image))
    if stored.unsigned_32:
        values = values.view(np.uint32)
    if given is not None:
        given = (given[0] * stored.unit, given[1] * stored.unit)
    grey = to_8_bits(values, name, known=stored.known, given=given, inverted=stored.inverted)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(values == clear, np.uint8(255), grey)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except _DECODER_ERRORS:  # a damaged EXIF block says nothing about the pixels
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _on_white(image: Image.Image, clear_shade: Any) -> Image.Image:
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode == "La":
        image = image.convert("LA")
    if clear_shade is not None:
        image = image.copy()
        image.info["transparency"] = clear_shade
    has_palette = image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")
    if image.mode not in ("RGBA", "LA", "PA", "RGBa") and clear_shade is None and not has_palette:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    if converted is None:
        raise ValueError("LAB colours cannot be converted")
    return converted


def _array_rgb(array: NDArray[Any], name: str, given: IntensityRange | None) -> ImageArray:
    channels = array[:, :, None] if array.ndim == 2 else array
    if channels.ndim != 3 or not 1 <= channels.shape[2] <= 4 or not channels.size:
        raise DataError(f"{name}: an image array must be [h, w] or [h, w, 1 to 4], found {list(array.shape)}")
    has_opacity = channels.shape[2] in (2, 4)
    colours, opacity = (channels[:, :, :-1], channels[:, :, -1:]) if has_opacity else (channels, None)
    rgb = colours if colours.dtype == np.uint8 else to_8_bits(colours, name, given=given)
    if opacity is not None:
        share = to_8_bits(opacity, name, known=_full_range(opacity)).astype(np.float64) / 255.0
        rgb = np.rint(rgb * share + 255.0 * (1.0 - share)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(rgb, (*rgb.shape[:2], 3)))


def _full_range(opacity: NDArray[Any]) -> IntensityRange | None:
    return (0.0, float(np.iinfo(opacity.dtype).max)) if opacity.dtype.kind in "ui" else None
