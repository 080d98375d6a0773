"""Bad files are refused as DataError that names the file and the place in it; nothing in them is ever executed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.datasets import makers

from fedafd.datasets import load_client_data, load_public_data, write_public_set
from fedafd.datasets.decoding import IMAGE_FORMATS, decode_image
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind


def refused(adapter: str, folder: Path, match: str, kind: ClientKind | None = None) -> None:
    """Loading, or at the latest reading every sample, raises DataError."""
    with pytest.raises(DataError, match=match):
        read_all(adapter, folder, kind)


def read_all(adapter: str, folder: Path, kind: ClientKind | None) -> None:
    if kind is None:
        for split in load_public_data(adapter, folder).values():
            list(split.images)
    else:
        data = load_client_data(adapter, folder, kind)
        for part in (data.train, data.val, data.test):
            list(getattr(part, "images", ()))


# -- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        b"not an image",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        makers.picture(form="JPEG")[:200],
        makers.picture(form="PNG")[:120],
        makers.picture(form="PNG").replace(b"IDAT", b"IDAX"),
    ],
    ids=["empty", "header only", "text", "postscript", "cut jpeg", "cut png", "garbled png"],
)
def test_a_corrupt_image_is_named(tmp_path: Path, content: bytes) -> None:
    folder = makers.image_folder(tmp_path, splits=True)
    (folder / "val" / "dog" / "3.png").write_bytes(content)
    refused("image-folder", folder, r"val/dog/3.png: not a readable image .*; replace or remove it", ClientKind.IMAGE)


def test_an_image_of_absurd_size_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, format="PNG")
    assert len(buffer.getvalue()) < 200_000
    with pytest.raises(DataError, match=r"bomb.png: not a readable image .*decompression bomb"):
        decode_image(buffer.getvalue(), "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=400)
@given(form=st.sampled_from(IMAGE_FORMATS), data=st.data())
def test_a_mutated_image_is_decoded_or_refused_and_nothing_else(form: str, data: st.DataObject) -> None:
    content = bytearray(makers.picture(form=form))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    try:
        assert decode_image(bytes(content[:cut]), "x").ndim == 3
    except DataError:
        pass


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1", "LA"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (6, 4)).save(buffer, format="TIFF")
    assert decode_image(buffer.getvalue(), "x").shape == (4, 6, 3)


def test_image_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = tmp_path / "one"
    (one / "cat").mkdir(parents=True)
    refused("image-folder", one, "one: needs two or more class folders, found 1", ClientKind.IMAGE)
    (one / "dog").mkdir()
    refused("image-folder", one, "one: no images in its class folders; known endings: .apng", ClientKind.IMAGE)
    (one / "dog" / "1.png").write_bytes(makers.picture())
    refused("image-folder", one, r"one: too few images to cut val and test from class 'dog' \(1\)", ClientKind.IMAGE)
    stray = makers.image_folder(tmp_path / "stray", splits=True)
    (stray / "test" / "cow").mkdir()
    (stray / "test" / "cow" / "1.png").write_bytes(makers.picture())
    refused("image-folder", stray, r"stray: no training sample of class 'cow' \(1 in test\)", ClientKind.IMAGE)
    refused("image-folder", tmp_path / "nowhere", "nowhere: not a folder", ClientKind.IMAGE)
    with pytest.raises(DataError, match=r"image-folder: needs a path to a folder; set data.path"):
        load_client_data("image-folder", None, ClientKind.IMAGE)


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("train.csv", b"", r"train.csv: is empty; it must hold rows of class number, title, description"),
        ("train.csv", b'"1"\n', r"train.csv:1: 1 fields; needs class number, title, description"),
        ("train.csv", b'"1","a","b"\n"3","c","d"\n', r"train.csv:2: class is '3'; must be 1 to 2, as in classes.txt"),
        ("train.csv", b'"0","a","b"\n', r"train.csv:1: class is '0'"),
        ("train.csv", b'"-1","a","b"\n', r"train.csv:1: class is '-1'"),
        ("train.csv", '"\u00b2","a","b"\n'.encode(), r"train.csv:1: class is"),
        ("train.csv", b'"' + b"9" * 5000 + b'","a","b"\n', r"train.csv:1: class is '9999"),
        ("train.csv", b"class,title,description\n", r"train.csv:1: class is 'class'"),
        ("test.csv", b'"1","a","b"\n"1","caf\xe9","d"\n', r"test.csv:2: not UTF-8: .*; save the file as UTF-8"),
        ("test.csv", b'"1","a","b"\n"2","c\n', r"test.csv:2: not readable as CSV: unexpected end of data"),
        ("test.csv", b'"1","a"b","c"\n', r"test.csv:1: not readable as CSV"),
        ("val.csv", b'"1","",""\n', r"val.csv:1: has no text"),
        ("classes.txt", b"World\n", r"classes.txt: needs two or more class names"),
        ("classes.txt", b"World\nWorld\n", r"classes.txt: 'World' occur twice"),
        ("classes.txt", b"World\nCaf\xe9\n", r"classes.txt:2: not UTF-8"),
    ],
)
def test_csv_files_that_do_not_fit_are_refused(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    folder = makers.ag_news(tmp_path)
    (folder / name).write_bytes(content)
    refused("ag-news", folder, match, ClientKind.TEXT)


def test_a_missing_csv_is_named(tmp_path: Path) -> None:
    folder = makers.ag_news(tmp_path)
    (folder / "test.csv").unlink()
    refused("ag-news", folder, r"test.csv: no such file; ag-news needs it", ClientKind.TEXT)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    folder = makers.ag_news(tmp_path)
    (folder / "train.csv").write_bytes(b"\xef\xbb\xbf" + (folder / "train.csv").read_bytes())
    assert len(load_client_data("ag-news", folder, ClientKind.TEXT).train) == 20


# -- pairs -----------------------------------------------------------------------------------------------------------


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.clear(), r"dataset_flickr8k.json: has no list 'images'"),
        (lambda c: c.update(images="x"), r"dataset_flickr8k.json: has no list 'images'"),
        (
            lambda c: c["images"][2].pop("sentences"),
            r"dataset_flickr8k.json: images\[2\]: has no 'sentences'",
        ),
        (lambda c: c["images"][2].pop("filename"), r"images\[2\]: has no 'filename'"),
        (lambda c: c["images"][2].update(sentences=[]), r"images\[2\]: train2.jpg has no caption"),
        (lambda c: c["images"][2].update(sentences=[{"raw": "  "}]), r"images\[2\]: train2.jpg has no caption"),
        (
            lambda c: c["images"][2].update(sentences=[{"raw": 5}]),
            r"images\[2\].sentences\[0\].raw must be text, found the",
        ),
        (lambda c: c["images"][2].update(split="dev"), r"images\[2\]: split is 'dev'; must be train"),
        (lambda c: c["images"].__setitem__(2, "x"), r"images\[2\] must be an object, found text"),
        (lambda c: c["images"][2].update(filename="train1.jpg"), r"flickr8k.json: 'train1.jpg' occur twice"),
        (lambda c: c["images"][2].update(filename="../../etc/passwd"), r"images\[2\]: .*leaves the folder of images"),
        (lambda c: c["images"][2].update(filename="/etc/passwd"), r"images\[2\]: .*leaves the folder of images"),
        (lambda c: c["images"][2].update(filename="a\\..\\b"), r"images\[2\]: .*leaves the folder of images"),
        (lambda c: c["images"][2].update(filename="a\0b"), r"images\[2\]: .*leaves the folder of images"),
        (lambda c: c["images"][2].update(filename=7), r"images\[2\]: file name is 7; must be text"),
        (lambda c: c["images"][2].update(filepath="../.."), r"images\[2\]: .*leaves the folder of images"),
        (lambda c: c["images"][2].update(filename="gone.jpg"), r"gone.jpg"),
        (lambda c: c.update(images=[i for i in c["images"] if i["split"] != "val"]), r"no pairs in split val"),
    ],
)
@pytest.mark.parametrize("images", ["tar", "folder"])
def test_karpathy_files_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[Any], Any], match: str, images: str
) -> None:
    folder = makers.karpathy(tmp_path, images=images)
    change_json(folder / "dataset_flickr8k.json", change)
    refused("flickr", folder, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.pop("annotations"), r"captions_val.json: has no list 'annotations'"),
        (lambda c: c["images"][1].pop("file_name"), r"captions_val.json: images\[1\]: has no 'file_name'"),
        (lambda c: c["images"][1].update(id=0), r"captions_val.json: images\[1\]: id 0 occurs twice"),
        (
            lambda c: c["images"][1].update(id=[1]),
            r"captions_val.json: images\[1\].id must be a number or text, found a list",
        ),
        (lambda c: c["images"][1].update(file_name="COCO_val_000000000000.jpg"), r"captions_val.json: .* occur twice"),
        (lambda c: c["images"][1].update(file_name="../x"), r"captions_val.json: images\[1\]: .*leaves the folder"),
        (lambda c: c["annotations"][0].update(image_id=99), r"annotations\[0\]: image_id 99 is the id of none"),
        (lambda c: c["annotations"][0].update(caption=None), r"annotations\[0\].caption must be text, found null"),
        (lambda c: c["annotations"].__setitem__(0, 3), r"annotations\[0\] must be an object, found the number 3"),
        (lambda c: c["images"][1].update(file_name="COCO_train_000000000000.jpg"), r"over all splits: .* occur twice"),
    ],
)
def test_coco_files_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[[Any], Any], match: str) -> None:
    folder = makers.coco(tmp_path)
    change_json(folder / "captions_val.json", change)
    refused("coco", folder, match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"captions_test.json: not valid JSON"),
        (b'{"images": [', r"captions_test.json: not valid JSON: .*line 1"),
        (b'{"images": "caf\xe9"}', r"captions_test.json:1: not UTF-8"),
        (b"[" * 100_000, r"captions_test.json: not valid JSON"),
    ],
)
def test_broken_json_is_refused_with_its_place(tmp_path: Path, content: bytes, match: str) -> None:
    folder = makers.coco(tmp_path)
    (folder / "captions_test.json").write_bytes(content)
    refused("coco", folder, match)


def test_an_outside_file_is_not_read_through_the_annotations(tmp_path: Path) -> None:
    """The check is on the name, before any file is opened."""
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(makers.picture(form="JPEG"))
    folder = makers.karpathy(tmp_path / "set", images="folder")
    change_json(folder / "dataset_flickr8k.json", lambda c: c["images"][0].update(filename="../../secret.jpg"))
    refused("flickr", folder, "leaves the folder of images")


# -- tars ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.8])
def test_a_truncated_tar_is_refused(tmp_path: Path, share: float) -> None:
    path = makers.karpathy(tmp_path) / "images.tar"
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: int(len(content) * share)])
    refused("flickr", tmp_path, r"images.tar")


def test_a_tar_that_ends_in_the_middle_of_its_last_image_is_refused(tmp_path: Path) -> None:
    path = makers.karpathy(tmp_path) / "images.tar"
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset_data + last.size // 2])
    refused("flickr", tmp_path, r"images.tar: not a whole, uncompressed tar: .*; copy or pack it again")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path: Path, mode: str) -> None:
    folder = makers.karpathy(tmp_path)
    makers.write_tar(folder / "images.tar", {"images/train0.jpg": makers.picture()}, mode)
    refused("flickr", folder, r"images.tar: not a whole, uncompressed tar")


@pytest.mark.parametrize("name", ["../train0.jpg", "/tmp/train0.jpg", "a/../../train0.jpg"])
def test_a_tar_whose_members_leave_it_is_refused(tmp_path: Path, name: str) -> None:
    folder = makers.karpathy(tmp_path)
    makers.write_tar(folder / "images.tar", {name: makers.picture()})
    refused("flickr", folder, r"images.tar: file name .* leaves the folder of images")


def test_a_link_in_a_tar_is_not_followed(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path)
    with tarfile.open(folder / "images.tar", "w") as tar:
        link = tarfile.TarInfo("images/train0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    refused("flickr", folder, r"images.tar: images/train0.jpg is a link in the tar; pack it again with --deref")


def test_a_name_that_several_members_share_is_refused(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path)
    picture = makers.picture()
    makers.write_tar(folder / "images.tar", {"a/train0.jpg": picture, "b/train0.jpg": picture})
    refused("flickr", folder, r"images.tar: 2 files could be train0.jpg: a/train0.jpg, b/train0.jpg; name it by")


def test_a_folder_without_images_says_what_to_set(tmp_path: Path) -> None:
    folder = makers.karpathy(tmp_path)
    (folder / "images.tar").unlink()
    refused("flickr", folder, r"neither a folder images/ nor a .tar of images; set options.images")
    with pytest.raises(DataError, match=r"pictures: no such folder or tar of images"):
        load_public_data("flickr", folder, {"images": "pictures"})


# -- the public set --------------------------------------------------------------------------------------------------


def test_a_public_set_is_not_written_with_a_corrupt_image(tmp_path: Path) -> None:
    folder = makers.coco(tmp_path / "coco")
    (folder / "images" / "COCO_val_000000000001.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"COCO_val_000000000001.jpg: not a readable image"):
        write_public_set(load_public_data("coco", folder), tmp_path / "set")
    assert not (tmp_path / "set" / "manifest.json").exists()
