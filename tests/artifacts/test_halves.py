"""Widening float16 by its bits: the same as NumPy's conversion, for every number there is."""

from __future__ import annotations

import numpy as np
import pytest

from fedafd.artifacts.halves import float32_of

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("width", [1, 256, 4096, 1 << 16])
def test_every_float16_becomes_the_same_float32(width: int) -> None:
    half_ND = EVERY.reshape(-1, width)
    expected_ND = half_ND.astype(np.float32)
    float_ND = float32_of(half_ND)
    assert float_ND.dtype == np.float32 and float_ND.shape == half_ND.shape
    is_nan = np.isnan(expected_ND)
    assert np.array_equal(np.isnan(float_ND), is_nan)
    # Signs of zeros, and numbers below the smallest normal one, too.
    assert np.array_equal(float_ND.view(np.uint32)[~is_nan], expected_ND.view(np.uint32)[~is_nan])


def test_rows_with_and_without_infinities_do_not_touch_each_other() -> None:
    half_ND = np.ones((300, 1000), np.float16)
    half_ND[150, 7], half_ND[299, 999] = np.inf, -np.inf
    assert np.array_equal(float32_of(half_ND), half_ND.astype(np.float32))


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (1, 1)])
def test_small_and_empty_rows_keep_their_shape(shape: tuple[int, int]) -> None:
    assert np.array_equal(float32_of(np.ones(shape, np.float16)), np.ones(shape, np.float32))


def test_a_part_of_rows_is_widened_alike() -> None:
    half_ND = EVERY.reshape(-1, 256)[:120]
    assert np.array_equal(float32_of(half_ND[10:20]), half_ND[10:20].astype(np.float32), equal_nan=True)
