"""The fingerprint of data: equal for equal samples in any order, different as soon as a sample or a class's name is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.datasets.makers import image_folder, picture

from fedafd.datasets import load_client_data
from fedafd.datasets.fingerprint import Change, DataFingerprint, data_fingerprint, fingerprint_of
from fedafd.datasets.pixels import keep_decoded
from fedafd.datasets.samples import ClientData, PairSplit, TextSplit
from fedafd.datasets.shapes import ShapesOptions, client_data
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

SMALL = ShapesOptions(num_train=12, num_val=6, num_test=6, image_size=16)


def texts(train: list[str], labels: list[int], names: tuple[str, ...] = ("a", "b")) -> ClientData:
    split = TextSplit(train, np.array(labels, dtype=np.int64))
    other = TextSplit(["v", "w"], np.array([0, 1], dtype=np.int64))
    return ClientData(ClientKind.TEXT, split, other, other, names)


@pytest.mark.parametrize("kind", ClientKind)
def test_the_order_of_samples_does_not_count(kind: ClientKind) -> None:
    data = client_data(kind, SMALL)
    turned = replace(data, train=data.train.take(range(11, -1, -1)))
    assert fingerprint_of(turned) == fingerprint_of(data)


@pytest.mark.parametrize("kind", ClientKind)
def test_a_sample_more_or_less_is_another_fingerprint_and_is_counted(kind: ClientKind) -> None:
    data = client_data(kind, SMALL)
    fewer = replace(data, train=data.train.take(range(9)))
    old, new = data_fingerprint(data), data_fingerprint(fewer)
    assert old.value != new.value
    assert new.changes_since(old) == {"train": Change(added=0, removed=3)}
    assert old.changes_since(new) == {"train": Change(added=3, removed=0)}
    assert old.changes_since(old) == {}


def test_a_sample_that_moves_between_splits_is_another_fingerprint() -> None:
    data = client_data(ClientKind.TEXT, SMALL)
    assert fingerprint_of(replace(data, val=data.test, test=data.val)) != fingerprint_of(data)


def test_classes_count_by_name_and_not_by_number() -> None:
    one = texts(["x", "y"], [0, 1], ("a", "b"))
    swapped = replace(
        one,
        train=TextSplit(["x", "y"], np.array([1, 0])),
        val=TextSplit(["v", "w"], np.array([1, 0])),
        test=TextSplit(["v", "w"], np.array([1, 0])),
        labels=("b", "a"),
    )
    assert fingerprint_of(swapped) == fingerprint_of(one)
    assert fingerprint_of(texts(["x", "y"], [0, 1], ("a", "c"))) != fingerprint_of(one)
    assert fingerprint_of(texts(["x", "y"], [1, 0], ("a", "b"))) != fingerprint_of(one)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=3), min_size=1, max_size=4), st.lists(st.text(max_size=3), min_size=1, max_size=4))
def test_captions_are_not_mixed_up_at_their_borders(one: list[str], other: list[str]) -> None:
    def of(captions: list[str]) -> str:
        image = np.zeros((2, 2, 3), dtype=np.uint8)
        split = PairSplit([image], [tuple(captions)])
        return fingerprint_of(ClientData(ClientKind.PAIR, split, split, split))

    assert (of(one) == of(other)) == (one == other)


def test_files_count_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    def load(folder: Path) -> ClientData:
        return load_client_data("image-folder", folder, ClientKind.IMAGE)

    data = load(image_folder(tmp_path / "one", splits=True))
    renamed = image_folder(tmp_path / "two", splits=True)
    (renamed / "train" / "cat" / "0.png").rename(renamed / "train" / "cat" / "zz.png")
    assert fingerprint_of(load(renamed)) == fingerprint_of(data)
    assert fingerprint_of(keep_decoded(data)) == fingerprint_of(data)
    assert fingerprint_of(replace(data, train=data.train.take(range(len(data.train))))) == fingerprint_of(data)
    (renamed / "train" / "cat" / "zz.png").write_bytes(picture(999))
    changes = data_fingerprint(load(renamed)).changes_since(data_fingerprint(data))
    assert changes == {"train": Change(added=1, removed=1)}


def test_a_broken_picture_does_not_stop_the_fingerprint(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, splits=True)
    (folder / "train" / "cat" / "0.png").write_bytes(b"no picture")
    assert fingerprint_of(load_client_data("image-folder", folder, ClientKind.IMAGE))


@pytest.mark.parametrize("kind", ClientKind)
def test_a_fingerprint_survives_its_file(kind: ClientKind) -> None:
    made = data_fingerprint(client_data(kind, SMALL))
    assert DataFingerprint.from_bytes(made.to_bytes()) == made


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_spoilt_file_is_told(content: bytes) -> None:
    with pytest.raises(DataError, match="not a fingerprint"):
        DataFingerprint.from_bytes(content)
