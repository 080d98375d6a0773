"""Numbers of things as people read them."""

from __future__ import annotations

import pytest

from fedafd.domain.counted import byte_size, counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3e15, "3000.0 TB")]
)
def test_bytes_have_the_largest_unit_that_fits(count: float, words: str) -> None:
    assert byte_size(count) == words


def test_one_is_singular() -> None:
    assert (counted(1, "run"), counted(2, "run"), counted(0, "entry", "entries")) == ("1 run", "2 runs", "0 entries")
