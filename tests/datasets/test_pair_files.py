"""Pairs from real life: which annotations, which picture, and what each field must be. All is settled at load."""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.datasets import makers

from fedafd.datasets import PairSplit, PublicSet, load_client_data, load_public_data, write_public_set
from fedafd.datasets.picture_store import find_pictures
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

ANNOTATIONS = "dataset_flickr8k.json"


def load(folder: Path, **options: Any) -> dict[str, PairSplit]:
    return load_public_data("flickr", folder, options)


def change_first(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / ANNOTATIONS).read_text())
    change(content["images"][0])
    (folder / ANNOTATIONS).write_text(json.dumps(content))


# -- candidates ------------------------------------------------------------------------------------------------------


def test_several_annotations_are_named_with_the_option_that_decides(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path)
    (folder / "dataset_coco.json").write_text("{}")
    with pytest.raises(DataError, match=r"2 candidates: dataset_coco.json, dataset_flickr8k.json; set options.annotat"):
        load(folder)
    assert len(load(folder, annotations=ANNOTATIONS)["train"]) == 6
    (folder / "dataset_coco.json").rename(folder / "captions_train.json")
    with pytest.raises(DataError, match=r"candidates: dataset_flickr8k.json, captions_train.json; set options.annotat"):
        load(folder)


def test_several_places_of_images_are_named_with_the_option_that_decides(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path)
    (folder / "._images.tar").write_bytes(b"side data of macOS")
    assert len(load(folder)["train"]) == 6
    (folder / "images").mkdir()
    with pytest.raises(DataError, match=r"images: 2 candidates: images, images.tar; set options.images"):
        load(folder)
    (folder / "images").rmdir()
    makers.write_tar(folder / "more.tar", {"x.jpg": makers.picture()})
    with pytest.raises(DataError, match=r"images: 2 candidates: images.tar, more.tar; set options.images"):
        load(folder)
    assert len(load(folder, images="images.tar")["train"]) == 6


# -- which picture ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["tar", "folder"])
@pytest.mark.parametrize(
    ("names", "files", "match"),
    [
        (("cats/1.jpg", "dogs/1.jpg"), ("1.jpg",), "has no file cats/1.jpg; only 1.jpg, which may be another picture"),
        (
            ("cats/1.jpg", "dogs/1.jpg"),
            ("cats/1.jpg", "1.jpg"),
            "has no file dogs/1.jpg; only 1.jpg, cats/1.jpg, which",
        ),
        (("cats/1.jpg", "dogs/1.jpg"), ("cats/1.jpg",), "has no file dogs/1.jpg; only cats/1.jpg, which"),
        (("dogs/1.jpg",), ("cats/1.jpg",), "has no file dogs/1.jpg; only cats/1.jpg, which may be another picture"),
        (
            ("1.jpg",),
            ("cats/1.jpg", "dogs/1.jpg"),
            "2 files could be 1.jpg: cats/1.jpg, dogs/1.jpg; name it by its path",
        ),
        (("1.jpg", "cats/1.jpg"), ("cats/1.jpg",), "1.jpg has no file of its own .*; cats/1.jpg belongs to cats/1.jpg"),
        (("1.JPG",), ("1.jpg",), "has no file 1.JPG; only 1.jpg, in other capital and small letters; rename one"),
        (("gone.jpg", "lost.jpg"), ("1.jpg",), "has no file gone.jpg; add the file, .*; and 1 more of 4 pictures"),
        (("a.jpg", "./a.jpg"), ("a.jpg",), "has no file of its own"),
    ],
)
def test_no_picture_is_taken_for_another(
    tmp_path: Path, images: str, names: tuple[str, ...], files: tuple[str, ...], match: str
) -> None:
    with pytest.raises(DataError, match=rf"images\[\d\]: .*{match}"):
        load(pictures(tmp_path, names, files, images))


@pytest.mark.parametrize("images", ["tar", "folder"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("1.jpg", "1.jpg"),
        ("1.jpg", "deep/down/1.jpg"),
        ("train2014/1.jpg", "1.jpg"),
        ("train2014/1.jpg", "coco/train2014/1.jpg"),
        ("./train2014//1.jpg", "train2014/1.jpg"),
        ("caf\u00e9/\u304c.jpg", unicodedata.normalize("NFD", "caf\u00e9/\u304c.jpg")),
        (unicodedata.normalize("NFD", "caf\u00e9.jpg"), "caf\u00e9.jpg"),
    ],
)
def test_a_picture_is_found_where_nothing_else_bears_its_name(
    tmp_path: Path, images: str, name: str, file: str
) -> None:
    splits = load(pictures(tmp_path, (name,), (file,), images))
    expected = load(pictures(tmp_path / "plain", ("x.jpg",), ("x.jpg",), images))
    np.testing.assert_array_equal(splits["train"].images[0], expected["train"].images[0])
    assert splits["train"].ids[0] == name


def pictures(folder: Path, names: tuple[str, ...], files: tuple[str, ...], images: str) -> Path:
    """A set whose training entries are `names`, and whose pictures are `files`, besides those of val and test."""
    folder.mkdir(exist_ok=True)
    held_out = [("val", "held/v.jpg"), ("test", "held/t.jpg")]
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": "a picture"}]}
        for split, name in [*(("train", name) for name in names), *held_out]
    ]
    (folder / ANNOTATIONS).write_text(json.dumps({"images": entries}))
    content = {file: makers.picture(seed) for seed, file in enumerate([*files, "held/v.jpg", "held/t.jpg"])}
    if images == "tar":
        makers.write_tar(folder / "images.tar", content)
    else:
        for file, data in content.items():
            (folder / "images" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / file).write_bytes(data)
    return folder


class Store:
    """Files without content."""

    def __init__(self, files: list[str]) -> None:
        self.where, self.files, self.barred = Path("store"), files, dict[str, str]()

    def name(self, path: str) -> str:
        return path

    def read(self, path: str) -> bytes:
        raise AssertionError(path)


PATHS = st.lists(st.sampled_from(["a", "b", "caf\u00e9", "cafe\u0301"]), min_size=1, max_size=3).map("/".join)


@settings(deadline=None, max_examples=300)
@given(names=st.lists(PATHS, min_size=1, max_size=4, unique=True), files=st.lists(PATHS, max_size=5, unique=True))
def test_found_pictures_are_different_files_that_end_like_their_names(names: list[str], files: list[str]) -> None:
    try:
        found = find_pictures(Store(files), dict.fromkeys(names, "x"))
    except DataError:
        assert not set(names) <= set(files)
        return
    assert len(set(found.values())) == len(names)
    for name, path in found.items():
        one, other = (f"/{unicodedata.normalize('NFC', each)}" for each in (name, path))
        assert path == name if name in files else one.endswith(other) or other.endswith(one)


def test_a_link_out_of_the_data_is_refused_at_load_and_one_within_is_followed(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path / "set", images="folder")
    picture = folder / "images" / "train0.jpg"
    (tmp_path / "outside.jpg").write_bytes(picture.read_bytes())
    (folder / "kept").mkdir()
    picture.rename(folder / "kept" / "x.jpg")
    picture.symlink_to("../kept/x.jpg")
    assert len(load(folder)["train"].images[0]) == 10
    picture.unlink()
    picture.symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(
        DataError, match=r"images\[0\]: .*train0.jpg is a link out of the data's folder, to .*outside.jpg"
    ):
        load(folder)
    picture.unlink()
    picture.symlink_to("gone.jpg")
    with pytest.raises(DataError, match=r"images\[0\]: .*train0.jpg is a link to .*gone.jpg, which is not there"):
        load(folder)
    picture.unlink()
    os.mkfifo(picture)
    with pytest.raises(DataError, match=r"images\[0\]: .*train0.jpg is no regular file"):
        load(folder)


def test_linked_folders_are_entered_within_the_data_and_once(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path / "set", images="folder")
    (folder / "images").rename(folder / "pictures")
    (folder / "images").mkdir()
    (folder / "images" / "all").symlink_to("../pictures")
    (folder / "pictures" / "circle").symlink_to(".")
    assert len(load(folder)["train"]) == 6
    (folder / "images" / "all").unlink()
    (folder / "pictures").rename(tmp_path / "pictures")
    (folder / "images" / "all").symlink_to(tmp_path / "pictures")
    with pytest.raises(DataError, match=r"has no file train0.jpg"):
        load(folder)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_a_tar_is_refused_at_load(tmp_path: Path, kind: bytes) -> None:
    folder = makers.karpathy(tmp_path)
    with tarfile.open(folder / "images.tar") as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    content.pop("images/train0.jpg")
    makers.write_tar(folder / "images.tar", content)
    with tarfile.open(folder / "images.tar", "a") as tar:
        link = tarfile.TarInfo("images/train0.jpg")
        link.type, link.linkname = kind, "images/train1.jpg"
        tar.addfile(link)
    with pytest.raises(
        DataError, match=r"images\[0\]: .*images/train0.jpg is a link in the tar; pack it again with --d"
    ):
        load(folder)


def test_a_member_that_is_twice_in_a_tar_is_refused(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path)
    makers.write_tar(folder / "images.tar", {"images/train0.jpg": makers.picture()}, "a")
    with pytest.raises(DataError, match=r"images/train0.jpg is twice in the tar; pack it again"):
        load(folder)


def test_only_entries_that_are_read_need_their_pictures(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path, images="folder")
    (folder / "images" / "train5.jpg").unlink()
    assert len(load(folder, limit=5)["train"]) == 5
    with pytest.raises(DataError, match=r"images\[5\]: .*has no file train5.jpg; add the file, or remove the entry"):
        load(folder)


# -- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda i: i.update(sentences=[{"raw": None}]), r"sentences\[0\].raw must be text, found null"),
        (
            lambda i: i.update(sentences=[{"raw": "a"}, {"raw": True}]),
            r"sentences\[1\].raw must be text, found true or",
        ),
        (
            lambda i: i.update(sentences=["a", "b"]),
            r"sentences\[0\] must be an object with the text in `raw`, found text",
        ),
        (lambda i: i.update(sentences="a b"), r"sentences must be a list, found text"),
        (lambda i: i.update(sentences={"raw": "a"}), r"sentences must be a list, found an object"),
        (lambda i: i.update(sentences=[{"text": "a"}]), r"sentences\[0\]: has no 'raw'"),
        (lambda i: i.update(sentences=[{"raw": "\ud83d"}]), r"sentences\[0\].raw: holds half a character \(U\+D83D"),
        (lambda i: i.update(sentences=[{"raw": "a\0b"}]), r"sentences\[0\].raw: holds a NUL character at position 1"),
        (lambda i: i.update(filename="\udcff.jpg"), r": file name: holds half a character"),
        (lambda i: i.update(split=None), r": split is None; must be train"),
        (lambda i: i.update(split=["train"]), r": split is \['train'\]; must be train"),
        (lambda i: i.update(filepath=3), r": file name is 3; must be text"),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_what_it_must_be(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], match: str
) -> None:
    folder = makers.karpathy(tmp_path)
    change_first(folder, change)
    with pytest.raises(DataError, match=rf"{ANNOTATIONS}: images\[0\].?{match}"):
        load(folder)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path, images="folder")
    change_first(folder, lambda image: image["sentences"].append({"raw": "  "}))
    for name in ("extra.jpg", "._train0.jpg"):
        (folder / "images" / name).write_bytes(b"x")
    (folder / "images" / "__MACOSX").mkdir()
    (folder / "images" / "__MACOSX" / "._x.jpg").write_bytes(b"x")
    listing = load_client_data("flickr", folder, ClientKind.PAIR).listing
    assert listing.notes == ("1 blank captions are left out",)
    assert (listing.source, listing.files_seen, listing.files_read) == (str(folder), 13, 10)
    assert {(each.reason.value, each.examples) for each in listing.left_out} == {
        ("unused", ("extra.jpg",)),
        ("hidden", ("._train0.jpg",)),
        ("system", ("__MACOSX/._x.jpg",)),
    }
    coco = makers.coco(tmp_path / "coco")
    content = json.loads((coco / "captions_val.json").read_text())
    content["annotations"] = content["annotations"][:2]
    (coco / "captions_val.json").write_text(json.dumps(content))
    notes = load_client_data("coco", coco, ClientKind.PAIR).listing.notes
    assert notes == ("1 images that no caption is about are left out",)


def test_coco_captions_with_half_a_character_are_named(tmp_path: Path) -> None:
    folder = makers.coco(tmp_path)
    content = json.loads((folder / "captions_val.json").read_text())
    content["annotations"][1]["caption"] = "\ud83d"
    (folder / "captions_val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"captions_val.json: annotations\[1\].caption: holds half a character"):
        load_public_data("coco", folder)


@pytest.mark.parametrize("number", ["9" * 5000, "1e999"])
def test_json_with_absurd_numbers_is_refused_in_words(tmp_path: Path, number: str) -> None:
    folder = makers.coco(tmp_path)
    (folder / "captions_val.json").write_text(f'{{"images": [{number}], "annotations": []}}')
    with pytest.raises(DataError, match=r"captions_val.json: "):
        load_public_data("coco", folder)


def test_braces_in_the_name_of_annotations_are_plain_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\{x\}train.json: no such file"):
        load(makers.karpathy(tmp_path), annotations="{x}{split}.json")


def test_a_public_set_is_not_written_with_text_that_utf8_cannot_hold(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    for captions, ids in ((("\ud83d",), ("a",)), (("a",), ("\udcff",)), (("a\0",), ("a",))):
        with pytest.raises(DataError, match=r"public set, split train: sample 0: holds (half a character|a NUL)"):
            write_public_set({"train": PairSplit([image], [captions], ids)}, tmp_path)


def test_a_public_set_holds_pictures_as_their_range_of_intensities_shows_them(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path / "flickr", images="folder")
    for path in (folder / "images").iterdir():
        buffer = io.BytesIO()
        Image.fromarray(np.full((6, 5), 1500, np.uint16)).save(buffer, format="PNG")
        path.write_bytes(buffer.getvalue())
    splits = load(folder, intensity_range=[1000, 2000])
    assert int(splits["val"].images[0].max()) == 128
    write_public_set(splits, tmp_path / "set")
    np.testing.assert_array_equal(PublicSet.open(tmp_path / "set").split("val").images[0], splits["val"].images[0])
