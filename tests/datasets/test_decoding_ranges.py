"""Numbers of any depth become shades by their own white or a range that is given, or the file is refused by name."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tests.datasets.test_decoding import HEIGHT, WIDTH, encoded, near, noise

from fedafd.datasets.decoding import as_rgb, decode_image, to_rgb
from fedafd.domain.errors import ConfigurationError, DataError


def tiff(values: NDArray[Any], sample_format: int, *, compressed: bool = False, planes: int = 1) -> bytes:
    """A TIFF by hand, one row of one strip, for kinds of numbers that Pillow does not write.

    `values` [planes, w] are written in their own byte order; a plane is a strip, and a colour.
    """
    order = ">" if values.dtype.byteorder == ">" else "<"
    strips = [zlib.compress(row.tobytes()) if compressed else row.tobytes() for row in values]
    starts = [8 + sum(map(len, strips[:number])) for number in range(planes)]
    fields = {256: [values.shape[1]], 257: [1], 258: [8 * values.dtype.itemsize] * planes, 278: [1], 277: [planes]}
    fields |= {259: [8 if compressed else 1], 262: [{1: 1, 3: 2, 4: 5}[planes]], 284: [2 if planes > 1 else 1]}
    fields |= {339: [sample_format] * planes, 273: starts, 279: [len(strip) for strip in strips]}
    body, entries = b"".join(strips), b""
    for tag, numbers in sorted(fields.items()):
        written = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(written) > 4:
            written, body = struct.pack(f"{order}I", 8 + len(body)), body + written
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + written
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    return start + body + struct.pack(f"{order}H", len(fields)) + entries + bytes(4)


def picture_or_refusal(content: bytes, window: tuple[float, float] | None) -> NDArray[np.uint8] | str:
    try:
        return decode_image(content, "x.tif", intensity_range=window)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("kind", "planes", "window"),
    [
        *[(kind, 1, None) for kind in ("u1", "u2", "f4")],
        *[(kind, 1, (-100, 100)) for kind in ("i1", "i2", "i4", "f4", "f8")],
        ("u4", 1, (0, 2**32 - 1)),
        *[(kind, planes, None) for kind in ("u1", "u2") for planes in (3, 4)],
    ],
)
def test_a_tiff_of_any_numbers_is_read_right_or_refused_by_name(
    order: str, compressed: bool, kind: str, planes: int, window: tuple[int, int] | None
) -> None:
    shares = np.random.default_rng(planes).random((planes, 40))
    shares[:, :2] = 0, 1
    low, high = window or (0.0, 1.0 if kind[0] == "f" else 2.0 ** (8 * int(kind[1])) - 1)
    content = tiff(
        (low + shares * (high - low)).astype(f"{order}{kind}"),
        "?uif".index(kind[0]),
        compressed=compressed,
        planes=planes,
    )
    made = picture_or_refusal(content, window)
    if isinstance(made, str):
        assert made.startswith("x.tif: ")
        assert "not read" in made
        assert kind not in ("u1", "u2", "f4") or planes > 1 or (compressed and order == ">")
        return
    expected = 255 * ((1 - shares[:3]) * (1 - shares[3:]) if planes == 4 else shares).T[None]
    near(made, expected, within=3)


def test_a_tiff_of_unsigned_32_bits_is_not_read_as_negative_numbers() -> None:
    values = np.array([[0, 2**31, 2**32 - 1]], dtype="<u4")
    near(decode_image(tiff(values, 1), "x", intensity_range=(0, 2**32 - 1)), values * 255.0 / (2**32 - 1))


def test_a_tiff_of_signed_16_bits_needs_a_range() -> None:
    values = np.array([[-1000, 0, 1000]], dtype="<i2")
    with pytest.raises(DataError, match="x: holds whole numbers .* with a sign .*intensity_range"):
        decode_image(tiff(values, 2), "x")
    near(decode_image(tiff(values, 2), "x", intensity_range=(-1000, 1000)), np.array([[0.0, 127.5, 255.0]]))


# -- depth -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), low=st.integers(-2000, 2000), width=st.integers(1, 5000))
def test_a_given_range_is_black_to_white(seed: int, low: int, width: int) -> None:
    values = np.random.default_rng(seed).integers(low - 100, low + width + 100, (HEIGHT, WIDTH)).astype(np.int32)
    values[0, :2] = low, low + width
    shown = np.clip((values - low) * 255.0 / width, 0, 255)
    for kind in (np.int32, np.float32):
        content = encoded(Image.fromarray(values.astype(kind)), "TIFF")
        near(decode_image(content, "x", intensity_range=(low, low + width)), shown)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.full((4, 4), 200.0, np.float32), "holds fractions beyond 0 to 1 .*intensity_range"),
        (np.full((4, 4), -0.5, np.float32), "holds fractions beyond 0 to 1 .*intensity_range"),
        (np.full((4, 4), np.nan, np.float32), "no finite numbers"),
        (np.full((4, 4), 900, np.int32), "whole numbers of 32 bits with a sign .*intensity_range"),
        (np.arange(0, 4080, 255, dtype=np.uint16).reshape(4, 4), r"12 bits or fewer .*intensity_range.*\[0, 4095\]"),
    ],
)
def test_where_black_and_white_are_not_known_the_option_is_named(values: NDArray[Any], match: str) -> None:
    for source in (encoded(Image.fromarray(values), "TIFF"), values, Image.fromarray(values)):
        with pytest.raises(DataError, match=f"^scan 7: .*{match}"):
            as_rgb(source, "scan 7")


def test_a_range_that_holds_no_value_of_a_picture_is_refused() -> None:
    with pytest.raises(DataError, match=r"x: none of its values \(5000 to 5000\) lies in intensity_range \[0, 4095\]"):
        to_rgb(Image.fromarray(np.full((4, 4), 5000, np.int32)), "x", intensity_range=(0, 4095))


@pytest.mark.parametrize("given", [(5, 5), (9, 2), (0, float("nan"))])
def test_a_range_that_is_none_is_refused(given: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"intensity_range is .*must be \[BLACK, WHITE\]"):
        as_rgb(np.zeros((4, 4), np.uint16), "x", intensity_range=given)


def test_pictures_of_8_bits_do_not_change_with_a_range() -> None:
    content = encoded(Image.fromarray(noise(1)), "PNG")
    np.testing.assert_array_equal(decode_image(content, "x", intensity_range=(0, 4095)), noise(1))
