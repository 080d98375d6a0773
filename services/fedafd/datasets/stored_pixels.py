"""How an image file stores its pixels: what Pillow tells before it decodes them, and forgets afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from fedafd.datasets.intensity import IntensityRange

__all__ = ["StoredPixels"]

_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339
"""Tags of TIFF."""
_SEPARATE = 2
_WHITE_IS_ZERO, _SIGNED = 0, 2
_SIZE_MARKER, _DEPTH_PLACE = b"\xff\x4f\xff\x51", 42
"""How a JPEG 2000 stream starts, and where it says how many bits a value has."""
_HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class StoredPixels:
    """Facts of one file, or of an image in memory."""

    raw_mode: str
    """In Pillow's words, such as `RGB;16B`: 16 bits a colour, of which Pillow keeps the upper 8."""
    known: IntensityRange | None
    """What is black and white in one channel of more than 8 bits, where the format says so."""
    unit: float
    """By how much Pillow multiplies the file's values when it decodes them."""
    inverted: bool
    unsigned_32: bool
    """Pillow's mode I has a sign, which this TIFF has not."""
    misread: str | None
    """What the file is, where Pillow would decode it to other pixels without a word (13.0.0)."""

    @classmethod
    def of(cls, image: Image.Image) -> StoredPixels:
        """Ask before `image.load()`."""
        tags = getattr(image, "tag_v2", None) or {}
        bits, is_tiff = _tag(tags, _BITS), image.format == "TIFF"
        raw_mode, maximum = _tile_arguments(image)
        return cls(
            raw_mode=raw_mode,
            known=_known_range(image, bits),
            unit=_unit(image, maximum),
            inverted=_tag(tags, _PHOTOMETRIC) == _WHITE_IS_ZERO,
            unsigned_32=is_tiff and image.mode == "I" and _tag(tags, _SAMPLE_FORMAT) != _SIGNED,
            misread=_misread(image, tags, raw_mode) if is_tiff else None,
        )

    def clear_shade(self, image: Image.Image) -> Any:
        """The shade or colour that is transparent, in the decoded pixels' depth; Pillow gives it in the file's."""
        clear = image.info.get("transparency")
        if isinstance(clear, int) and self.raw_mode in ("L;2", "L;4"):
            return clear * (85 if self.raw_mode == "L;2" else 17)
        if isinstance(clear, tuple) and self.raw_mode.startswith("RGB;16"):
            return tuple(part >> 8 for part in clear)
        return clear


def _tag(tags: Any, number: int) -> Any:
    value = tags.get(number)
    return value[0] if isinstance(value, tuple) and value else value


def _misread(image: Image.Image, tags: Any, raw_mode: str) -> str | None:
    tiles: Any = getattr(image, "tile", None)
    is_compressed = bool(tiles) and tiles[0][0] == "libtiff"
    bits = _tag(tags, _BITS) or 1
    if bits <= 8 and _tag(tags, _SAMPLE_FORMAT) == _SIGNED:
        return f"a TIFF of {bits} bits with a sign"
    if (
        is_compressed and "B" in raw_mode.partition(";")[2]
    ):  # libtiff has brought the bytes into order, and Pillow again
        return "a compressed TIFF of big-endian numbers"
    wide = bits > 8 and not is_compressed
    if _tag(tags, _PLANES) == _SEPARATE and len(image.getbands()) > 1 and (wide or image.mode == "LA"):
        return "a TIFF with a plane for each colour, of more than 8 bits or with transparency"
    return None


def _tile_arguments(image: Image.Image) -> tuple[str, object]:
    """What the decoder is told: how pixels are stored, and more."""
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    several = arguments if isinstance(arguments, tuple) else (arguments,)
    first, second = (*several, None, None)[:2]
    return first if isinstance(first, str) else "", second


def _known_range(image: Image.Image, bits: object) -> IntensityRange | None:
    if image.mode.startswith("I;16"):
        return 0.0, float(2**bits - 1) if isinstance(bits, int) and 8 < bits <= 16 else 65535.0
    return (0.0, 65535.0) if image.mode == "I" and image.format == "PPM" else None


def _unit(image: Image.Image, maximum: object) -> float:
    """PGM and JPEG 2000 of more than 8 bits are brought to 16."""
    if image.format == "PPM" and image.mode == "I" and isinstance(maximum, int):
        return 65535.0 / maximum
    if image.format == "JPEG2000" and image.mode.startswith("I;16"):
        return float(2 ** (16 - _jpeg2000_bits(image)))
    return 1.0


def _jpeg2000_bits(image: Image.Image) -> int:
    file = getattr(image, "fp", None)
    if file is None:
        return 16
    here = file.tell()
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(here)
    stream = head[max(head.find(_SIZE_MARKER), 0) :]
    bits = (stream[_DEPTH_PLACE] & 0x7F) + 1 if len(stream) > _DEPTH_PLACE else 16
    return min(max(bits, 8), 16)
