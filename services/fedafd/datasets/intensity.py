"""From numbers of any depth to 8 bits: black and white are known from the depth, or given, and never guessed.

A picture whose black and white cannot be known is refused, in words that name `intensity_range`, the adapters' option
for it: the two values that become black (0) and white (255). What lies beyond them is black or white, as in a window of
radiology.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedafd.domain.errors import ConfigurationError, DataError

__all__ = ["IntensityRange", "need_intensity_range", "scaled_to_8_bits", "to_8_bits"]

IntensityRange = tuple[float, float]
"""The values that become black and white."""

_DARKEST_SHARE = 16
"""A picture that uses less than 1/16 of 16 bits holds 12 bits or fewer in a 16-bit file, as X-ray detectors write."""
_TWELVE_BITS = 4096
_BLOCK = 1 << 20


def to_8_bits(
    values: NDArray[np.generic],
    name: str,
    *,
    known: IntensityRange | None = None,
    given: IntensityRange | None = None,
    inverted: bool = False,
) -> NDArray[np.uint8]:
    """Numbers of any shape as uint8: by the `given` range, else by the `known` one, else by what their type says.

    bool and uint8 have a depth, uint16 too, floats are taken as 0 to 1. `inverted` makes the low end white. Raises
    DataError naming `name` where no range is known, or where the known one cannot be true.
    """
    if values.dtype.kind not in "bufi" or not values.size:
        raise DataError(f"{name}: not numbers of a picture: {values.dtype} of shape {list(values.shape)}", name=name)
    if not np.isfinite(values).all():
        raise DataError(f"{name}: holds values that are no finite numbers; replace or remove it", name=name)
    low, high = float(values.min()), float(values.max())
    if given is not None:
        need_intensity_range(given)
        _check_given(low, high, given, name)
    chosen = given or known or _range_of_type(values, low, high, name)
    if given is None:
        _check_depth(low, high, chosen, name)
    return scaled_to_8_bits(values, chosen[::-1] if inverted else chosen)


def scaled_to_8_bits(values: NDArray[np.generic], chosen: IntensityRange) -> NDArray[np.uint8]:
    """0 at the first value, 255 at the second, clipped beyond them, rounded to nearest."""
    black, white = chosen
    scaled = np.empty(values.shape, dtype=np.uint8)
    flat, out = values.reshape(-1), scaled.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK].astype(np.float64)
        out[start : start + _BLOCK] = np.rint(np.clip((part - black) * (255.0 / (white - black)), 0.0, 255.0))
    return scaled


def _range_of_type(values: NDArray[np.generic], low: float, high: float, name: str) -> IntensityRange:
    if values.dtype.kind == "b":
        return 0.0, 1.0
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return 0.0, float(2 ** (8 * values.dtype.itemsize) - 1)
    if values.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    what = "fractions beyond 0 to 1" if values.dtype.kind == "f" else f"whole numbers of {values.dtype.itemsize * 8}"
    unit = "" if values.dtype.kind == "f" else " bits with a sign" if values.dtype.kind == "i" else " bits"
    raise DataError(
        f"{name}: holds {what}{unit} ({low:g} to {high:g}), which do not say what is black and what is white;"
        " set the option intensity_range: [BLACK, WHITE]",
        name=name,
    )


def _check_depth(low: float, high: float, known: IntensityRange, name: str) -> None:
    """Refuse 12 bits or fewer in a file of 16: scaled by 16 bits they would come out nearly black."""
    depth = known[1] - known[0]
    used = high - (low if known[0] < 0 else known[0])
    if depth > _TWELVE_BITS * 2 and low < high and used < depth / _DARKEST_SHARE:
        raise DataError(
            f"{name}: its values go from {low:g} to {high:g}, of a depth of {known[0]:g} to {known[1]:g}: probably 12"
            " bits or fewer in a file of 16; set the option intensity_range: [BLACK, WHITE], such as [0, 4095], or"
            f" [{known[0]:g}, {known[1]:g}] if it is really that dark",
            name=name,
        )


def _check_given(low: float, high: float, given: IntensityRange, name: str) -> None:
    if high < given[0] or low > given[1]:
        raise DataError(
            f"{name}: none of its values ({low:g} to {high:g}) lies in intensity_range [{given[0]:g}, {given[1]:g}];"
            " give the range that the pictures have",
            name=name,
        )


def need_intensity_range(given: IntensityRange | None, where: str = "intensity_range") -> None:
    """Raise ConfigurationError unless black lies below white and both are finite."""
    if given is not None and not (np.isfinite(given).all() and given[0] < given[1]):
        raise ConfigurationError(f"{where} is [{given[0]:g}, {given[1]:g}]; must be [BLACK, WHITE], BLACK below WHITE")
