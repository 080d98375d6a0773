"""A folder of pictures: what is read, what is left out and told, and how it is split."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.datasets import makers
from tests.datasets.dicom_files import RAMP, dicom

from fedafd.datasets import ClientData, load_client_data
from fedafd.datasets.folder_scan import ENDINGS
from fedafd.datasets.image_folders import ImageFolderOptions
from fedafd.datasets.image_folders import image_folder as read_folder
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind

SPLITS = ("train", "val", "test")


def lay(folder: Path, **files: int) -> Path:
    """Folders by path (two underscores part it), each with a number of PNG files."""
    for place, count in files.items():
        here = folder / place.replace("__", "/")
        here.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (here / f"{number:03d}.png").write_bytes(makers.picture(number))
    return folder


def load(folder: Path, **options: Any) -> ClientData:
    return load_client_data("image-folder", folder, ClientKind.IMAGE, options)


def counts(data: ClientData) -> dict[str, dict[str, int]]:
    """Samples by split and class."""
    return {
        split: {data.labels[label]: count for label, count in sorted(Counter(part.labels.tolist()).items())}
        for split in SPLITS
        if (part := getattr(data, split))
    }


def left(data: ClientData) -> set[tuple[str, str, int]]:
    return {(entry.reason.value, entry.what, entry.count) for entry in data.listing.left_out}


def names(data: ClientData, split: str) -> list[str]:
    images = getattr(data, split).images
    return [Path(images.name(index)).parent.name + "/" + Path(images.name(index)).name for index in range(len(images))]


# -- what is read ----------------------------------------------------------------------------------------------------

WRITTEN_AS = {".jp2": "JPEG2000", ".j2k": "JPEG2000", ".pgm": "PPM", ".tif": "TIFF", ".jfif": "JPEG", ".jpe": "JPEG"}


@pytest.mark.parametrize(
    "ending", [".ppm", ".pnm", ".jfif", ".jpe", ".JPG", ".webp", ".gif", ".bmp", ".tif", ".jp2", ".avif", ".dcm"]
)
def test_every_promised_ending_is_read(tmp_path: Path, ending: str) -> None:
    folder = lay(tmp_path, blue=3, red=0)
    form = WRITTEN_AS.get(ending.lower(), {".jpg": "JPEG", ".pnm": "PPM"}.get(ending.lower(), ending[1:].upper()))
    for number in range(3):
        content = dicom(RAMP) if ending == ".dcm" else makers.picture(number, form=form)
        (folder / "red" / f"{number}{ending}").write_bytes(content)
    data = load(folder)
    assert ending.lower() in ENDINGS
    assert counts(data) == {split: {"blue": 1, "red": 1} for split in SPLITS}
    assert all(image.ndim == 3 for split in SPLITS for image in getattr(data, split).images)


def test_dicom_files_of_any_ending_are_read_and_their_index_is_not(tmp_path: Path) -> None:
    folder = lay(tmp_path, blue=3, red=0)
    for name in ("IM0001", "1.2.840.5", "IM3", "DICOMDIR"):
        (folder / "red" / name).write_bytes(dicom(RAMP))
    data = load(folder)
    assert counts(data)["train"] == {"blue": 1, "red": 1}
    assert left(data) == {("system", "DICOMDIR", 1)}


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    folder = lay(tmp_path, red=3, blue=3, red__more=5)
    for name in ("._000.png", ".DS_Store", "Thumbs.db", "notes.txt", "a.heic", "b.HEIC", "README"):
        (folder / "red" / name).write_bytes(b"something")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._x.png").write_bytes(b"x")
    for place in ("lost+found", ".git", "blue/@eaDir"):
        (folder / place).mkdir()
        (folder / place / "thing.png").write_bytes(b"x")
    (folder / "loose.png").write_bytes(makers.picture())
    lay(folder / "red", more__deep=1)
    data = load(folder)
    assert data.labels == ("blue", "red")
    found = left(data)
    assert {
        ("hidden", "name starts with a dot", 3),
        ("system", "Thumbs.db", 1),
        ("system", "lost+found", 1),
        ("system", "@eaDir", 1),
        ("system", "__MACOSX", 1),
        ("extension", ".txt", 1),
        ("extension", ".heic", 2),
        ("extension", "no ending", 1),
        ("nested", "in red/more", 6),
        ("unused", "in no class folder", 1),
    } <= found
    assert data.listing.files_seen == data.listing.files_read + sum(entry.count for entry in data.listing.left_out)
    assert any(note.startswith("files that are not read: 6 (in red/more), 2 (.heic)") for note in data.listing.notes)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"])
def test_empty_files_and_lfs_pointers_are_refused_by_name_with_what_they_are(tmp_path: Path, content: bytes) -> None:
    folder = lay(tmp_path, red=3, blue=3)
    (folder / "red" / "001.png").write_bytes(content)
    data = load(folder)
    with pytest.raises(DataError, match=r"red/001.png: not a readable image \((an empty file|a Git LFS pointer)"):
        [image for split in SPLITS for image in getattr(data, split).images]


def test_a_class_folder_whose_files_are_all_of_other_endings_is_refused(tmp_path: Path) -> None:
    folder = lay(tmp_path, red=0, blue=3, green=3)
    for number in range(4):
        (folder / "red" / f"{number}.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"red: a class folder without a picture that is read; it holds 4 \.heic"):
        load(folder)
    deep = lay(tmp_path / "deep", red__a=2, blue=3, green=3)
    with pytest.raises(DataError, match=r"red: a class folder .* it holds 2 in folders below it"):
        load(deep)


def test_an_empty_class_folder_is_left_out_and_told_and_one_without_training_samples_is_refused(tmp_path: Path) -> None:
    data = load(lay(tmp_path / "a", red=3, blue=3, green=0))
    assert data.labels == ("blue", "red")
    assert any("'green'" in note for note in data.listing.notes)
    with pytest.raises(DataError, match=r"no training sample of class 'red' \(2 in test\)"):
        load(lay(tmp_path / "b", train__red=0, train__blue=3, train__up=3, val__blue=1, test__red=2, test__blue=1))


# -- links -----------------------------------------------------------------------------------------------------------


def test_links_inside_the_folder_are_followed_and_those_that_leave_it_are_left_out(tmp_path: Path) -> None:
    folder = lay(tmp_path / "data", red=3, blue=3)
    outside = lay(tmp_path / "elsewhere", green=3)
    (folder / "red" / "inside.png").symlink_to("../blue/000.png")
    (folder / "red" / "outside.png").symlink_to(outside / "green" / "000.png")
    (folder / "red" / "dead.png").symlink_to("/nonexistent.png")
    (folder / "red" / "loop.png").symlink_to("loop.png")
    (tmp_path / "alias").symlink_to(folder)
    for place in (folder, tmp_path / "alias"):
        data = load(place)
        assert {("outside", "link that leaves the folder", 1), ("outside", "link to nothing", 2)} <= left(data)
        assert sum(counts(data)[split]["red"] for split in SPLITS) == 4
    assert sum(counts(load(folder, follow_links=True))[split]["red"] for split in SPLITS) > 4
    (folder / "green").symlink_to(outside / "green")
    with pytest.raises(DataError, match=r"data/green: a link to a folder outside .*follow_links: true"):
        load(folder)
    assert load(folder, follow_links=True).labels == ("blue", "green", "red")


# -- splits or classes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "val", "test", "Training", "dev"])
def test_a_class_may_be_called_like_a_split(tmp_path: Path, name: str) -> None:
    data = load(lay(tmp_path, bus=4, car=4, **{name: 4}))
    assert set(data.labels) == {"bus", "car", name}


def test_all_split_names_as_classes_beside_another(tmp_path: Path) -> None:
    assert load(lay(tmp_path, bus=4, train=4, test=4, val=4)).labels == ("bus", "test", "train", "val")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Train", "validation", "Test"), ("training", "dev", "testing")],
)
def test_split_folders_are_known_by_their_usual_names_and_keep_their_samples(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    layout = {f"{train}__a": 3, f"{train}__b": 4, f"{val}__a": 1, f"{val}__b": 1, f"{test}__a": 2, f"{test}__b": 1}
    data = load(lay(tmp_path, **layout))
    assert counts(data) == {"train": {"a": 3, "b": 4}, "val": {"a": 1, "b": 1}, "test": {"a": 2, "b": 1}}
    assert names(data, "train") == ["a/000.png", "a/001.png", "a/002.png", *(f"b/00{n}.png" for n in range(4))]
    assert data.listing.notes == ()


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        ({"train__a": 3, "train__b": 3, "val__a": 1, "test__b": 1, "bus": 3}, "bus holds pictures, too"),
        ({"train": 3, "test": 3}, "train holds pictures without a class|test holds pictures without a class"),
        ({"train__a": 3, "train__b": 3, "test": 3}, "test holds pictures without a class"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_refused_until_an_option_decides(
    tmp_path: Path, layout: dict[str, int], why: str
) -> None:
    folder = lay(tmp_path, **layout)
    with pytest.raises(
        DataError, match=f"may be splits or classes, because ({why}); set the option splits: folders or"
    ):
        load(folder)
    if "bus" in layout:
        data = load(folder, splits="folders")
        assert (data.labels, len(data.train)) == (("a", "b"), 6)
        assert ("unused", "in no split folder", 3) in left(data)
    if layout == {"train": 3, "test": 3}:
        assert load(folder, splits="none").labels == ("test", "train")


def test_split_folders_without_train_or_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has test, val, but no folder train"):
        load(lay(tmp_path / "a", val__x=3, val__y=3, test__x=3, test__y=3))
    with pytest.raises(DataError, match=r"val and validation are both a val folder|validation and val are both"):
        load(lay(tmp_path / "b", train__x=3, train__y=3, val__x=3, validation__y=3))
    with pytest.raises(DataError, match="has no folder of a split, but no folder train"):
        load(lay(tmp_path / "c", x=3, y=3), splits="folders")


# -- cuts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", ".png", ".dcm"])
def test_pipes_and_devices_are_left_out_and_told_and_never_opened(tmp_path: Path, ending: str) -> None:
    folder = lay(tmp_path / "data", blue=4, red=4)
    (folder / "red" / f"endless{ending}").symlink_to("/dev/zero")
    for place in (folder / f"top{ending}", folder / "red" / f"inner{ending}"):
        os.mkfifo(place)
    data = load(folder, follow_links=True)
    assert ("system", "a pipe, socket or device", 3) in left(data)
    assert sum(map(len, (data.train, data.val, data.test))) == 8


@pytest.mark.parametrize("name", [" ", "\N{NO-BREAK SPACE}", "\N{ZERO WIDTH SPACE}", "\t", "a\nb"])
def test_a_class_whose_name_cannot_be_shown_is_refused_on_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="blank, or not plain text") as caught:
        load(lay(tmp_path, blue=4, **{name: 4}))
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=15)
@given(
    sizes=st.lists(st.integers(3, 25), min_size=2, max_size=6),
    seed=st.integers(0, 1000),
    val=st.sampled_from([0.05, 0.1, 0.3]),
    test=st.sampled_from([0.1, 0.2, 0.4]),
)
def test_a_cut_has_every_class_in_every_part_and_each_picture_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int, val: float, test: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    for number, size in enumerate(sizes):
        (folder / f"c{number}").mkdir()
        for index in range(size):
            (folder / f"c{number}" / f"{index}.png").touch()
    options = ImageFolderOptions(val_fraction=val, test_fraction=test, split_seed=seed)
    data, again = read_folder(folder, options), read_folder(folder, options)
    for split in SPLITS:
        assert set(counts(data)[split]) == {f"c{number}" for number in range(len(sizes))}
        assert names(data, split) == names(again, split)
    assert len({name for split in SPLITS for name in names(data, split)}) == sum(sizes) == data.listing.files_read
    assert abs(len(data.test) - test * sum(sizes)) <= len(sizes)


def test_another_seed_cuts_otherwise_and_the_cut_is_told(tmp_path: Path) -> None:
    folder = lay(tmp_path, a=10, b=10)
    one, other = load(folder), load(folder, split_seed=1)
    assert names(one, "test") != names(other, "test")
    assert counts(one) == {"train": {"a": 7, "b": 7}, "val": {"a": 1, "b": 1}, "test": {"a": 2, "b": 2}}
    assert "made from the class folders by split_seed 1" in other.listing.notes[0]


def test_a_missing_split_is_cut_from_train_and_told(tmp_path: Path) -> None:
    data = load(lay(tmp_path / "a", train__a=10, train__b=2, test__a=3, test__b=1))
    assert counts(data) == {"train": {"a": 9, "b": 1}, "val": {"a": 1, "b": 1}, "test": {"a": 3, "b": 1}}
    assert data.listing.notes == ("val (0.1 of each class): made from the folder train by split_seed 0",)
    data = load(lay(tmp_path / "b", train__a=10, train__b=5, val__a=3, val__b=1))
    assert counts(data) == {"train": {"a": 8, "b": 4}, "val": {"a": 3, "b": 1}, "test": {"a": 2, "b": 1}}
    assert counts(load(lay(tmp_path / "c", train__a=3, train__b=3))) == {s: {"a": 1, "b": 1} for s in SPLITS}


def test_classes_too_small_for_a_cut_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"too few images to cut val and test from class 'b' \(2\): each class needs 3"):
        load(lay(tmp_path / "a", a=9, b=2))
    with pytest.raises(DataError, match=r"too few images to cut val from class 'b' \(1\): each class needs 2"):
        load(lay(tmp_path / "b", train__a=9, train__b=1, test__a=1))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"splits": "maybe"}, r"data.options.splits: .*'auto', 'folders' or 'none'; found 'maybe'"),
        ({"val_fraction": 0.7, "test_fraction": 0.3}, "val_fraction 0.7 and test_fraction 0.3 must be above 0"),
        ({"val_fraction": 0}, "val_fraction 0 and"),
        ({"test_fraction": "much"}, "data.options.test_fraction: .*found 'much'"),
        ({"split_seed": -1}, "data.options.split_seed is -1"),
        ({"intensity_range": [10, 5]}, r"data.options.intensity_range is \[10, 5\]; must be \[BLACK, WHITE\]"),
        ({"intensity_range": [0, float("inf")]}, r"data.options.intensity_range is"),
        ({"intensity_range": [0]}, r"data.options.intensity_range"),
        ({"intensity_range": "0-5"}, r"data.options.intensity_range"),
        (
            {"split": "none"},
            r"data.options.split: image-folder has no such option; known: follow_links, intensity_range",
        ),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        load(lay(tmp_path, a=3, b=3), **options)


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["étui", "Åse", "한국", "naïve café"])
def test_class_names_are_one_whichever_way_they_are_written(tmp_path: Path, name: str) -> None:
    composed, parted = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    layout = {f"train__{parted}": 3, "train__b": 3, f"val__{composed}": 1, "val__b": 1, f"test__{parted}": 1}
    data = load(lay(tmp_path / "a", **layout))
    assert set(data.labels) == {composed, "b"}
    lay(tmp_path / "b", **{composed: 3, parted: 3, "b": 3})
    if len(list((tmp_path / "b").iterdir())) == 3:  # not where the file system holds them for one
        with pytest.raises(DataError, match="two class folders are named"):
            load(tmp_path / "b")


def test_names_that_are_no_utf8_never_break_a_message(tmp_path: Path) -> None:
    folder = lay(tmp_path, a=3, b=3)
    try:
        for old, new in (("a/000.png", b"a/\xff0.png"), ("a/001.png", b"a/\xff1.b\xfe"), ("b/001.png", b"b/x1.png")):
            (folder / old).rename(folder / os.fsdecode(new))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    lay(folder, a=2)
    data = load(folder)
    found = [getattr(data, split).images.name(i) for split in SPLITS for i in range(len(getattr(data, split)))]
    texts = [*found, *data.listing.notes, *(text for e in data.listing.left_out for text in (e.what, *e.examples))]
    assert "\n".join(texts).encode().count(b"\\xff") == 2
    (folder / "b").rename(folder / os.fsdecode(b"\xffb"))
    with pytest.raises(DataError, match="not plain text in UTF-8; rename it") as caught:
        load(folder)
    str(caught.value).encode()


def test_names_that_differ_by_capitals_only_are_told(tmp_path: Path) -> None:
    lay(tmp_path, Cat=3, cat=3, dog=3)
    if len(list(tmp_path.iterdir())) == 3:
        assert any("'Cat', 'cat' have nearly the same name" in note for note in load(tmp_path).listing.notes)


# -- pixels ----------------------------------------------------------------------------------------------------------


def test_classes_told_apart_by_brightness_are_the_same_in_16_as_in_8_bits(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, base in (("dark", 40), ("bright", 180)):
        for bits in ("8", "16"):
            (tmp_path / bits / name).mkdir(parents=True)
        for number in range(3):
            eight = (base + rng.integers(0, 40, (8, 8))).astype(np.uint8)
            Image.fromarray(eight).save(tmp_path / "8" / name / f"{number}.png")
            Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "16" / name / f"{number}.png")
    eight_bits, sixteen = load(tmp_path / "8"), load(tmp_path / "16")
    for split in SPLITS:
        pairs = zip(getattr(eight_bits, split).images, getattr(sixteen, split).images, strict=True)
        assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in pairs)


def test_the_range_of_intensities_reaches_every_picture(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((4, 4), 2000 + number, np.uint16)).save(tmp_path / name / f"{number}.png")
    data = load(tmp_path, intensity_range=[1000, 3000])
    assert {int(image.mean()) for split in SPLITS for image in getattr(data, split).images} <= {127, 128}
