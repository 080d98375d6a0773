"""Decoded once, kept, checked, bounded, and never the reason that something fails."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.servers import run_limited

from fedafd.datasets.pixels import PixelCache, resized, resized_all, trim_folder
from fedafd.domain.errors import DataError

LIMIT = 10**8


class Counted(Sequence[NDArray[np.uint8]]):
    """Images that count how often they are decoded."""

    def __init__(self, count: int = 5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._images = [rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(count)]
        self.decoded = 0

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]
        self.decoded += 1
        return self._images[index]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[i] for i in range(len(self)))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))


def test_resizing_is_pillows_bilinear_and_channels_come_first() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
    made = resized(image, 16)
    assert made.shape == (3, 16, 16)
    np.testing.assert_array_equal(made.transpose(1, 2, 0), expected)
    square = image[:, :20]
    np.testing.assert_array_equal(resized(square, 20), square.transpose(2, 0, 1))


def test_images_are_decoded_once_in_a_process_and_once_on_a_disk(tmp_path: Path) -> None:
    images = Counted()
    cache = PixelCache(tmp_path, limit_bytes=LIMIT)
    first = cache.pixels("k", images, 16)
    again = cache.pixels("k", images, 16)
    other_process = PixelCache(tmp_path, limit_bytes=LIMIT).pixels("k", images, 16)
    assert images.decoded == 5
    for pixels in (first, again, other_process):
        assert isinstance(pixels, np.memmap)
        np.testing.assert_array_equal(pixels, resized_all(Counted(), 16))


def test_sizes_and_keys_are_kept_apart(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, limit_bytes=LIMIT)
    assert cache.pixels("k", Counted(), 8).shape == (5, 3, 8, 8)
    assert cache.pixels("k", Counted(), 16).shape == (5, 3, 16, 16)
    other = cache.pixels("l", Counted(seed=1), 8)
    np.testing.assert_array_equal(other, resized_all(Counted(seed=1), 8))
    assert len(entries(tmp_path)) == 3


def test_who_writes_into_the_pixels_changes_nobody_elses(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, limit_bytes=LIMIT)
    cache.pixels("k", Counted(), 16)[:] = 0
    np.testing.assert_array_equal(
        PixelCache(tmp_path, limit_bytes=LIMIT).pixels("k", Counted(), 16), resized_all(Counted(), 16)
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100],
        lambda data: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"\x80\x04cos\nsystem\n." + data,
        lambda data: data.replace(b"(5, 3, 16, 16)", b"(5, 3, 16, 15)"),
    ],
    ids=["cut off", "empty", "a bit flipped", "a pickle", "another shape"],
)
def test_a_corrupt_entry_is_made_again(tmp_path: Path, damage: object) -> None:
    PixelCache(tmp_path, limit_bytes=LIMIT).pixels("k", Counted(), 16)
    (entry,) = entries(tmp_path)
    entry.write_bytes(damage(entry.read_bytes()))  # type: ignore[operator]
    images = Counted()
    made = PixelCache(tmp_path, limit_bytes=LIMIT).pixels("k", images, 16)
    np.testing.assert_array_equal(made, resized_all(Counted(), 16))
    assert images.decoded == 5
    untouched = Counted()
    PixelCache(tmp_path, limit_bytes=LIMIT).pixels("k", untouched, 16)
    assert untouched.decoded == 0


def test_the_least_recently_used_goes_when_the_limit_is_reached(tmp_path: Path) -> None:
    size = 5 * 3 * 16 * 16
    cache = PixelCache(tmp_path, limit_bytes=3 * size)
    for age, key in enumerate("ab"):
        cache.pixels(key, Counted(), 16)
        for entry in tmp_path.glob(f"{key}-*.npy"):
            os.utime(entry, (time.time() - 1000 + age,) * 2)
    cache.pixels("a", Counted(), 16)
    cache.pixels("c", Counted(), 16)
    assert {entry.name[0] for entry in entries(tmp_path)} == {"a", "c"}


def test_what_is_larger_than_the_limit_is_decoded_into_memory(tmp_path: Path) -> None:
    made = PixelCache(tmp_path / "none", limit_bytes=100).pixels("k", Counted(), 16)
    np.testing.assert_array_equal(made, resized_all(Counted(), 16))
    assert not (tmp_path / "none").exists()


def test_an_image_that_cannot_be_decoded_leaves_no_file(tmp_path: Path) -> None:
    class Broken(Counted):
        def __getitem__(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]
            if index == 3:
                raise DataError("sample 3: not a readable image")
            return super().__getitem__(index)

    with pytest.raises(DataError, match="sample 3"):
        PixelCache(tmp_path, limit_bytes=LIMIT).pixels("k", Broken(), 16)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_speed_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import numpy as np; from pathlib import Path; from fedafd.datasets.pixels import PixelCache\n"
        "images = [np.full((40, 40, 3), n, np.uint8) for n in range(200)]\n"
        f"made = PixelCache(Path({str(tmp_path)!r}), limit_bytes=10**9).pixels('k', images, 64)\n"
        "print(type(made).__name__, made.shape, int(made.sum()))"
    )
    done = run_limited(code, file_bytes=1 << 20)
    expected = 3 * 64 * 64 * sum(range(200))
    assert done.stdout.split("\n")[-2] == f"ndarray (200, 3, 64, 64) {expected}", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_parts_that_a_killed_process_left_are_swept_and_young_ones_stay(tmp_path: Path) -> None:
    old, young = tmp_path / "k.1.part", tmp_path / "k.2.part"
    old.write_bytes(b"x" * 10)
    young.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    assert trim_folder(tmp_path, 100, keep=set()) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["k.2.part"]
