"""A contact sheet shows samples of each class in its own row, and what cannot be read as that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.datasets.makers import image_folder

from fedafd.agent.contact_sheet import write_contact_sheet
from fedafd.datasets import load_client_data
from fedafd.datasets.samples import ClientData, ImageSplit
from fedafd.datasets.shapes import ShapesOptions, client_data
from fedafd.domain.kinds import ClientKind


def plain(colours: list[tuple[int, int, int]], each: int = 3) -> ClientData:
    """One colour per class."""
    images = [np.full((10, 10, 3), colour, dtype=np.uint8) for colour in colours for _ in range(each)]
    split = ImageSplit(images, np.repeat(np.arange(len(colours)), each))
    return ClientData(ClientKind.IMAGE, split, split, split, tuple(f"class {n}" for n in range(len(colours))))


def test_each_class_has_a_row_of_its_own_samples(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    assert write_contact_sheet(plain(colours), tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    tops = [np.flatnonzero((sheet == colour).all(-1).any(1)) for colour in colours]
    assert all(len(rows) > 50 for rows in tops)
    assert tops[0].max() < tops[1].min() < tops[1].max() < tops[2].min()


def test_many_classes_and_long_names_stay_one_picture(tmp_path: Path) -> None:
    data = plain([(n, n, n) for n in range(100)], each=1)
    named = replace(data, labels=("x" * 500, *data.labels[1:]))
    assert write_contact_sheet(named, tmp_path / "sheet.png")
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width < 1000
    assert height < 5000


def test_pairs_are_shown_and_texts_have_no_sheet(tmp_path: Path) -> None:
    small = ShapesOptions(num_train=8, num_val=2, num_test=2)
    assert write_contact_sheet(client_data(ClientKind.PAIR, small), tmp_path / "pairs.png")
    assert not write_contact_sheet(client_data(ClientKind.TEXT, small), tmp_path / "texts.png")
    assert not (tmp_path / "texts.png").exists()


def test_a_broken_picture_leaves_its_place(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "data", splits=True)
    (folder / "train" / "cat" / "0.png").write_bytes(b"")
    data = load_client_data("image-folder", folder, ClientKind.IMAGE)
    assert write_contact_sheet(data, tmp_path / "sheet.png")


def test_letters_that_the_built_in_font_lacks_are_taken_from_the_systems_fonts() -> None:
    from fedafd.agent import contact_sheet

    own = contact_sheet._font(14, "normal")
    if not contact_sheet._system_fonts(14):
        pytest.skip("this machine has none of the fonts that are looked for")
    assert not contact_sheet._has_all(own, "Übergang")
    assert contact_sheet._has_all(contact_sheet._font(14, "Übergang"), "Übergang")
    assert contact_sheet._font(14, "normal") is not None
