"""DICOM pictures as RGB, by the optional extra `dicom` (pydicom; gdcm for compressed pixels).

Only the tags that say how the pixels are to be shown are ever parsed; no patient's, no study's. As those may be garbled
too, an error says what kind of thing is wrong, never what a tag holds, and pydicom's own words are not repeated.

Stored numbers become a grey picture by the standard's steps (PS3.3 C.11, C.7.6.3): the modality's rescaling or table,
then `intensity_range` in the rescaled unit, or else the first window or table of values of interest, or else all bits
that are stored; MONOCHROME1 is white at the low end.
"""

from __future__ import annotations

import io
import logging
import threading
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedafd.datasets.decoding import ImageArray, need_few_pixels
from fedafd.datasets.intensity import IntensityRange, to_8_bits
from fedafd.domain.errors import ConfigurationError, DataError

try:
    from pydicom import Dataset, dcmread
    from pydicom.dataset import FileMetaDataset
    from pydicom.errors import InvalidDicomError
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array
    from pydicom.tag import Tag
    from pydicom.uid import (
        UID,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        RLELossless,
    )
except ImportError as error:
    raise ConfigurationError("DICOM pictures need pydicom; pip install 'fedafd[dicom]'") from error

__all__ = ["decode_dicom"]

# Messages and warnings of pydicom quote what tags hold.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
_ALONE = threading.Lock()

_UNCOMPRESSED = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
_GREY = ("MONOCHROME1", "MONOCHROME2")
_SHOWN_BY = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PALETTES = tuple(
    f"{kind}{colour}PaletteColorLookupTable{what}"
    for colour in ("Red", "Green", "Blue")
    for kind, what in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)
_OVERLAYS = tuple((group << 16) + 0x0102 for group in range(0x6000, 0x6020, 2))
"""OverlayBitPosition: in files written before 2004 an overlay may lie in the bits that the picture leaves free."""
_TAGS: tuple[str | int, ...] = (
    *("Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ModalityLUTSequence"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *_SHOWN_BY,
    *_GROUPS,
    *_PALETTES,
    *_OVERLAYS,
)


def decode_dicom(content: bytes, name: str, *, intensity_range: IntensityRange | None = None) -> ImageArray:
    """The picture in a DICOM file as uint8 [h, w, 3]. Raises DataError naming `name` and the kind of fault."""
    try:
        with _ALONE, warnings.catch_warnings():  # the filters of warnings belong to all threads
            warnings.simplefilter("ignore")
            return _decoded(_read(content, name), name, intensity_range)
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes pydicom raise
        raise DataError(
            f"{name}: not readable as a DICOM picture ({type(error).__name__}); replace or remove it", name=name
        ) from None


def _read(content: bytes, name: str) -> Dataset:
    try:
        data = dcmread(io.BytesIO(content), specific_tags=[Tag(tag) for tag in _TAGS])
    except InvalidDicomError:
        data = dcmread(io.BytesIO(content), specific_tags=[Tag(tag) for tag in _TAGS], force=True)
    if not any(pixels in data for pixels in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DataError(f"{name}: a DICOM file without a picture in it; remove it", name=name)
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise DataError(
            f"{name}: a DICOM file of {int(data.NumberOfFrames)} frames; save each as a file of its own", name=name
        )
    need_few_pixels(int(data.Columns), int(data.Rows), name)
    _need_decoder(data, name)
    _need_sound_bits(data, name)
    _take_from_groups(data)
    return data


def _need_decoder(data: Dataset, name: str) -> None:
    meta = getattr(data, "file_meta", None)
    if meta is None or "TransferSyntaxUID" not in meta:
        data.file_meta = FileMetaDataset()
        implicit = data.original_encoding[0]
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    syntax = UID(data.file_meta.TransferSyntaxUID)
    words = syntax.name if syntax.is_transfer_syntax else "an unknown one"
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise DataError(
            f"{name}: its transfer syntax ({words}) is not read; save it uncompressed (Explicit VR Little Endian)",
            name=name,
        )


def _need_sound_bits(data: Dataset, name: str) -> None:
    """Refuse numbers that lie in other bits than those read, which are the lowest: they would wrap around."""
    syntax = data.file_meta.TransferSyntaxUID
    if "PixelData" not in data or syntax not in (*_UNCOMPRESSED, RLELossless):
        return
    stored, allocated = (int(data.get(bits) or 0) for bits in ("BitsStored", "BitsAllocated"))
    high = data.get("HighBit")
    if not 0 < stored <= allocated:
        raise DataError(
            f"{name}: says that {stored} bits are stored of {allocated} (BitsStored, BitsAllocated); save it anew",
            name=name,
        )
    if high is not None and int(high) != stored - 1:
        raise DataError(
            f"{name}: its {stored} stored bits end at bit {high}, not {stored - 1} (HighBit); save it anew", name=name
        )
    if syntax == RLELossless or allocated not in (8, 16, 32) or any(data.get(tag) for tag in _OVERLAYS):
        return
    if stored == allocated:
        return
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    width = allocated // 8
    values = np.frombuffer(data.PixelData[: len(data.PixelData) // width * width], dtype=f"{order}u{width}")
    values = values[: int(data.Rows) * int(data.Columns) * int(data.get("SamplesPerPixel") or 1)]
    above = values >> stored
    sound = above == 0
    if data.get("PixelRepresentation"):  # a sign may go on to the top
        sound |= (above == (1 << allocated - stored) - 1) & (values >> (stored - 1) & 1 == 1)
    if not sound.all():
        raise DataError(
            f"{name}: some of its numbers need more than the {stored} bits that it says are stored (BitsStored);"
            " save it anew",
            name=name,
        )


def _take_from_groups(data: Dataset) -> None:
    """The enhanced kinds of DICOM keep rescaling and window in groups: bring them to the top, as the others have it."""
    for group in _GROUPS:
        for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (data.get(group) or [Dataset()])[0].get(sequence) or ():
                for keyword in _SHOWN_BY:
                    if keyword in item and keyword not in data:
                        data[keyword] = item[keyword]


def _decoded(data: Dataset, name: str, given: IntensityRange | None) -> ImageArray:
    kind = str(data.PhotometricInterpretation)
    stored = _pixels(data, name)
    if kind in _GREY:
        if stored.ndim != 2:
            raise DataError(
                f"{name}: a grey DICOM picture with pixels of shape {list(stored.shape)}: several frames or colours;"
                " save each picture as a file of its own",
                name=name,
            )
        grey = _grey(data, stored, name, given, inverted=kind == "MONOCHROME1")
        return np.repeat(grey[:, :, None], 3, axis=2)
    if kind == "PALETTE COLOR":
        stored = apply_color_lut(stored, data)
        bits = 8 * stored.dtype.itemsize
    else:
        bits = int(data.BitsStored)
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise DataError(f"{name}: a DICOM picture whose colours are of no kind that is read", name=name)
    return to_8_bits(stored, name, known=(0.0, float(2**bits - 1)))


def _pixels(data: Dataset, name: str) -> NDArray[Any]:
    try:
        return pixel_array(data)
    except Exception:  # whatever a decoder raises
        syntax = UID(data.file_meta.TransferSyntaxUID).name
        raise DataError(
            f"{name}: not readable as a DICOM picture: its pixels ({syntax}) cannot be decoded; save it uncompressed"
            " (Explicit VR Little Endian), or replace or remove it",
            name=name,
        ) from None


def _grey(
    data: Dataset, stored: NDArray[Any], name: str, given: IntensityRange | None, *, inverted: bool
) -> NDArray[np.uint8]:
    values, known = _modality_values(data, stored, name)
    if given is not None:
        return to_8_bits(values, name, given=given, inverted=inverted)
    if data.get("VOILUTSequence"):
        values, known = _through_table(values, data.VOILUTSequence[0], data)
        return to_8_bits(values, name, known=known, inverted=inverted)
    window = _window(data)
    if window is None:
        return to_8_bits(values, name, known=known, inverted=inverted)
    low, high = window
    if values.max() < low or values.min() > high:
        raise DataError(
            f"{name}: the window in the file shows none of its values; set the option intensity_range: [BLACK, WHITE]",
            name=name,
        )
    if low == high:  # a window of width 1 has two shades
        return to_8_bits(values > low, name, inverted=inverted)
    if str(data.get("VOILUTFunction") or "LINEAR").upper() == "SIGMOID":
        values = 1.0 / (1.0 + np.exp(-4.0 * (values - (low + high) / 2) / (high - low)))
        return to_8_bits(values, name, known=(0.0, 1.0), inverted=inverted)
    return to_8_bits(values, name, given=window, inverted=inverted)


def _window(data: Dataset) -> IntensityRange | None:
    """The first window as the values that become black and white (PS3.3 C.11.2.1.2, C.11.2.1.3)."""
    centre, width = (_first(data.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    exact = str(data.get("VOILUTFunction") or "LINEAR").upper() in ("LINEAR_EXACT", "SIGMOID")
    if centre is None or width is None or not (width > 0.0 if exact else width >= 1.0):
        return None
    if not exact:
        centre, width = centre - 0.5, width - 1.0
    return centre - width / 2, centre + width / 2


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value if isinstance(value, int | float | str) else value[0])


def _modality_values(data: Dataset, stored: NDArray[Any], name: str) -> tuple[NDArray[Any], IntensityRange | None]:
    """The stored numbers in the modality's unit, and what all stored bits can hold there; None for floating point."""
    if data.get("ModalityLUTSequence"):
        return _through_table(stored, data.ModalityLUTSequence[0], data)
    slope, intercept = _first(data.get("RescaleSlope")), _first(data.get("RescaleIntercept"))
    if slope == 0.0:
        raise DataError(f"{name}: its rescale slope is 0, which makes all pixels the same; save it anew", name=name)
    values = stored.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)
    if "PixelData" not in data:
        return values, None
    bits = int(data.BitsStored)
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if data.PixelRepresentation else (0, 2**bits - 1)
    low, high = sorted(end * (1.0 if slope is None else slope) + (intercept or 0.0) for end in ends)
    return values, (low, high)


def _through_table(values: NDArray[Any], table: Dataset, data: Dataset) -> tuple[NDArray[Any], IntensityRange]:
    """Values looked up in a table of the modality or of the values of interest, and what its bits can hold."""
    entries, first, bits = (int(number) for number in table.LUTDescriptor)
    raw: Any = table.LUTData
    if isinstance(raw, bytes):
        order = "<" if data.original_encoding[1] else ">"
        raw = np.frombuffer(raw, dtype="u1" if len(raw) in (entries, entries + 1) else f"{order}u2")
    entries_read = np.atleast_1d(np.asarray(raw))[: entries or 1 << 16]
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries_read) - 1)
    return entries_read[index], (0.0, float(2**bits - 1))
