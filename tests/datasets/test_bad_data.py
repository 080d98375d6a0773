"""Bad files are refused as DataError that names the file and the place in it; nothing in them is ever executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.datasets import makers

from fedafd.datasets import load_client_data, load_public_data, write_public_set
from fedafd.datasets.decoding import IMAGE_FORMATS, decode_image
from fedafd.datasets.plain_pickle import load_plain_pickle
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


# -- pickles ---------------------------------------------------------------------------------------------------------


class Evil:
    """What an attacker would put into a pickle."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "call",
    [
        lambda path: Evil(os.system, f"touch {path}"),
        lambda path: Evil(eval, f"open({str(path)!r}, 'w')"),
        lambda path: Evil(exec, f"open({str(path)!r}, 'w')"),
        lambda path: Evil(open, str(path), "w"),
        lambda path: Evil(getattr, "text", "upper"),
        lambda path: Evil(np.fromfile, str(path)),
        lambda path: Evil(__import__, "antigravity"),
    ],
    ids=["system", "eval", "exec", "open", "getattr", "fromfile", "import"],
)
def test_a_malicious_pickle_is_refused_and_runs_nothing(
    tmp_path: Path, call: Callable[[Path], Evil], protocol: int
) -> None:
    mark = tmp_path / "executed"
    content = {"data": call(mark), "fine_labels": [0]}
    folder = makers.cifar_official(tmp_path / "cifar", train=pickle.dumps(content, protocol))
    refused(
        "cifar100", folder, r"cifar/train: refused, because it is not plain data: .* is not allowed", ClientKind.IMAGE
    )
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02ccopyreg\n_reconstructor\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        b"(ios\nsystem\nS'true'\n.",
        b"\x80\x02cnumpy\nndarray\nq\x00(K\x01tR}X\x05\x00\x00\x00__a__K\x01sb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nlist\nK\x00\x85U\x01btR.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02\x8c",
        b"",
        b"\x80\x63",
        b"P1\n.",
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
        b"\x80\x02cnumpy\ndtype\n}X\x08\x00\x00\x00restore__K\x01sb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"\x80\x02]r\xff\xff\xff\x7fcos\nsystem\n.",
        b"\x82\x01.",
    ],
)
def test_hand_made_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="meta: refused"):
        load_plain_pickle(content, "meta")


@settings(deadline=None, max_examples=600)
@given(protocol=st.integers(0, 5), data=st.data())
def test_a_mutated_pickle_is_read_or_refused_and_nothing_else(protocol: int, data: st.DataObject) -> None:
    """NumPy's own reconstruction crashed the interpreter on some of these."""
    good = bytearray(pickle.dumps({b"data": np.zeros((2, 4), np.uint8), b"fine_labels": [1, 2]}, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_plain_pickle(bytes(good), "train")
    except DataError:
        pass


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"train": {b"data": np.zeros((4, 3072), np.uint8)}}, "cifar/train: has no entry 'fine_labels'"),
        ({"train": {b"data": np.zeros((4, 3000), np.uint8), b"fine_labels": [0] * 4}}, "cifar/train: `data` is not"),
        ({"train": {b"data": np.zeros((4, 3072)), b"fine_labels": [0] * 4}}, "cifar/train: `data` is not a uint8"),
        ({"train": {b"data": np.zeros((4, 3072), np.uint8), b"fine_labels": ["a"] * 4}}, "`fine_labels` is not a list"),
        ({"train": {b"data": np.zeros((4, 3072), np.uint8), b"fine_labels": [0] * 3}}, "cifar/train"),
        (
            {"test": {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 3]}},
            "cifar/test: labels must be 0 to 2",
        ),
        ({"meta": {b"fine_label_names": "apple"}}, "cifar/meta: 'fine_label_names' is not a list of names"),
        ({"meta": [1, 2]}, "cifar/meta: has no entry 'fine_label_names'"),
        ({"test": b"\x80\x02"}, "cifar/test: refused"),
    ],
)
def test_official_cifar_files_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    refused("cifar100", makers.cifar_official(tmp_path / "cifar", **changes), match, ClientKind.IMAGE)


# -- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"val_labels": None}, "cifar.npz: not the expected arrays: .*val_labels"),
        ({"train_images": np.zeros((8, 3, 32, 32), np.uint8)}, "cifar.npz: train: images must be uint8 of shape"),
        ({"train_images": np.zeros((8, 32, 32, 3), np.float32)}, "cifar.npz: train: images must be uint8"),
        ({"train_images": np.zeros((8, 0, 32, 3), np.uint8)}, r"train: no images, or images without a pixel: .*\[8, 0"),
        ({"train_images": np.zeros((0, 32, 32, 3), np.uint8), "train_labels": np.zeros(0, int)}, "train: no images"),
        ({"test_labels": np.array([0, 1, 2, 9])}, "cifar.npz: test: labels must be 0 to 3, found 0 to 9"),
        ({"test_labels": np.array([0, -1, 2, 3])}, "test: labels must be 0 to 3, found -1 to 3"),
        ({"test_labels": np.array([0, 1])}, "test: 4 images but 2 labels"),
        ({"test_labels": np.array([0.5, 1, 2, 3])}, "test: labels must be whole numbers"),
        ({"test_labels": np.zeros((4, 1), int)}, "test: labels must be whole numbers"),
        ({"class_names": np.array(["a", "b", "a", "c"])}, "cifar.npz: class_names: 'a' is the name of two or more"),
        ({"class_names": np.array(["a", " ", "b", "c"])}, "cifar.npz: class_names: name 1: a class has an empty name"),
        ({"class_names": np.array([b"a", b"\xff", b"b", b"c"])}, "cifar.npz: class_names: name 1 is not UTF-8"),
        ({"class_names": np.array([0.0, 1.5, 2.0, 3.0])}, "cifar.npz: class_names must be texts or whole numbers"),
        ({"class_names": np.array([["a", "b"]])}, "cifar.npz: class_names must be texts or whole numbers"),
        (
            {"train_labels": np.array([0, 1, 2, 0, 1, 2, 0, 1])},
            r"no training sample of class 'class3' \(1 in val, 1 in",
        ),
        ({"train_labels": np.array(["a", "b"] * 4)}, "train: labels must be whole numbers"),
        ({"class_names": np.array([{"a": 1}], dtype=object)}, "cifar.npz: not the expected arrays: .*pickle"),
    ],
)
def test_npz_files_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    refused("cifar100", makers.cifar_npz(tmp_path, **changes), match, ClientKind.IMAGE)


@pytest.mark.parametrize("keep", [0, 10, 1000, -5])
def test_a_truncated_npz_is_refused(tmp_path: Path, keep: int) -> None:
    path = makers.cifar_npz(tmp_path) / "cifar.npz"
    path.write_bytes(path.read_bytes()[:keep])
    refused("cifar100", tmp_path, "cifar.npz: not the expected arrays", ClientKind.IMAGE)


@pytest.mark.parametrize("header", [b"{(", b"{\n  'a'\n 'b'", b"{'descr': \x00}"], ids=["bracket", "indent", "null"])
def test_an_npz_whose_header_is_no_python_is_refused(tmp_path: Path, header: bytes) -> None:
    with zipfile.ZipFile(makers.cifar_npz(tmp_path) / "cifar.npz", "w") as archive:
        archive.writestr("train_images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    refused("cifar100", tmp_path, "cifar.npz: not the expected arrays", ClientKind.IMAGE)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_mutated_npz_is_read_or_refused_and_nothing_else(tmp_path: Path, position: int, value: int) -> None:
    if not (tmp_path / "cifar.npz").exists():
        makers.cifar_npz(tmp_path)
        (tmp_path / "good").write_bytes((tmp_path / "cifar.npz").read_bytes())
    content = bytearray((tmp_path / "good").read_bytes())
    content[position % len(content)] = value
    (tmp_path / "cifar.npz").write_bytes(content)
    try:
        load_client_data("cifar100", tmp_path, ClientKind.IMAGE)
    except DataError:
        pass


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


# -- Parquet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "changes", "match"),
    [
        (
            ("image", "id"),
            {},
            r"train-00000-of-00001.parquet: no column 'captions'; found image, id; options.caption_column",
        ),
        (("captions",), {}, r"train-00000-of-00001.parquet: no column 'image'; found captions; options.image_column"),
        (
            ("image", "captions"),
            {"captions": ["text"] * 6},
            r"train-00000-of-00001.parquet, row 0: column 'captions' must be a list of texts",
        ),
        (
            ("image", "captions"),
            {"captions": [["a"]] * 5 + [[]]},
            r"train-00000-of-00001.parquet, row 5: column 'captions' has no caption",
        ),
        (
            ("image", "captions"),
            {"captions": [["a"]] * 5 + [None]},
            r"row 5: column 'captions' has an empty cell",
        ),
        (
            ("image", "captions"),
            {"image": ["x"] * 6},
            r"train-00000-of-00001.parquet, row 0: column 'image' must hold the file's bytes",
        ),
        (
            ("image", "captions"),
            {"image": [{"bytes": None, "path": "a.jpg"}] * 6},
            r"train-00000-of-00001.parquet, row 0: column 'image'",
        ),
        (
            ("image", "captions"),
            {"image": [{"bytes": b"broken", "path": ""}] * 6},
            r"train-00000-of-00001.parquet, row 0: column 'image': not a readable",
        ),
        (("image", "captions", "id"), {"id": ["a"] * 6}, r"train-00000-of-00001.parquet, column 'id': 'a' occur twice"),
    ],
)
def test_parquet_files_that_do_not_fit_are_refused(
    tmp_path: Path, columns: tuple[str, ...], changes: dict[str, Any], match: str
) -> None:
    refused("parquet", makers.parquet(tmp_path, *columns, **changes), match)


def test_parquet_texts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    refused("parquet", makers.parquet(tmp_path, "text"), "no column 'label'", ClientKind.TEXT)
    numbers = makers.parquet(tmp_path / "n", "text", "label", text=[1, 2, 3, 4, 5, 6])
    refused(
        "parquet",
        numbers,
        "train-00000-of-00001.parquet, row 0: column 'text' holds no text, but a number",
        ClientKind.TEXT,
    )


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_a_truncated_parquet_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = makers.parquet(tmp_path, "image", "captions") / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    refused("parquet", tmp_path, "train-00000-of-00001.parquet: not readable as Parquet")


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = makers.parquet(tmp_path, "text", "label")
    garbled = pa.array([b"caf\xe9"] * 6, type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": garbled, "label": [0, 1] * 3}), folder / "train-00000-of-00001.parquet")
    refused("parquet", folder, "column 'text' is not UTF-8", ClientKind.TEXT)


# -- the public set --------------------------------------------------------------------------------------------------


def test_a_public_set_is_not_written_with_a_corrupt_image(tmp_path: Path) -> None:
    folder = makers.coco(tmp_path / "coco")
    (folder / "images" / "COCO_val_000000000001.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"COCO_val_000000000001.jpg: not a readable image"):
        write_public_set(load_public_data("coco", folder), tmp_path / "set")
    assert not (tmp_path / "set" / "manifest.json").exists()


# -- another kind of file under the name -----------------------------------------------------------------------------

_OTHERS = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "web page": b"<!doctype html><html>an error page</html>" * 20,
    "gzip": b"\x1f\x8b\x08" + bytes(600),
    "7z archive": b"7z\xbc\xaf\x27\x1c" + bytes(600),
}
_FILES: dict[tuple[str, ClientKind], tuple[Callable[[Path], Path], list[str]]] = {
    ("ag-news", ClientKind.TEXT): (makers.ag_news, ["train.csv", "classes.txt"]),
    ("cifar100", ClientKind.IMAGE): (makers.cifar_npz, ["cifar.npz"]),
    ("flickr", ClientKind.PAIR): (makers.karpathy, ["dataset_flickr8k.json", "images.tar"]),
    ("parquet", ClientKind.TEXT): (
        lambda folder: makers.parquet(folder, "text", "label"),
        ["train-00000-of-00001.parquet"],
    ),
}
_PLACES = [(*source, file) for source, (_, files) in _FILES.items() for file in files]


@pytest.mark.parametrize("found", _OTHERS)
@pytest.mark.parametrize(("adapter", "kind", "file"), _PLACES)
def test_a_file_of_another_kind_is_refused_saying_what_it_is(
    tmp_path: Path, adapter: str, kind: ClientKind, file: str, found: str
) -> None:
    folder = _FILES[adapter, kind][0](tmp_path)
    (folder / file).write_bytes(_OTHERS[found])
    refused(adapter, folder, rf"{file}: .*{found}", kind)


@pytest.mark.parametrize(("adapter", "kind", "file"), _PLACES)
def test_a_pipe_in_place_of_a_file_is_refused_and_never_waited_for(
    tmp_path: Path, adapter: str, kind: ClientKind, file: str
) -> None:
    folder = _FILES[adapter, kind][0](tmp_path)
    (folder / file).unlink()
    os.mkfifo(folder / file)
    refused(adapter, folder, "no such file|no such folder or tar", kind)


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_rows_parted_by_other_marks_than_commas_say_which(tmp_path: Path, mark: str, name: str) -> None:
    folder = makers.ag_news(tmp_path)
    (folder / "train.csv").write_text(f"1{mark}title{mark}text, more\n2{mark}title{mark}text\n")
    refused("ag-news", folder, rf"train.csv:1: its fields are parted by {name}.*commas", ClientKind.TEXT)


def test_a_header_row_a_missing_classes_file_and_a_name_twice_are_told_with_the_remedy(tmp_path: Path) -> None:
    folder = makers.ag_news(tmp_path)
    whole = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text("class,title,text\n" + whole)
    refused("ag-news", folder, r"train.csv:1: class is 'class'; .*remove the row if it is a header", ClientKind.TEXT)
    (folder / "train.csv").write_text(whole)
    (folder / "classes.txt").write_text("World\nWorld\n")
    refused("ag-news", folder, r"'World' occur twice; each class must be there once", ClientKind.TEXT)
    (folder / "classes.txt").unlink()
    refused(
        "ag-news",
        folder,
        r"classes.txt: no such file; write it: the names of classes 1, 2 and so on, one a line",
        ClientKind.TEXT,
    )


@pytest.mark.parametrize("blank", ["", "  ", "\N{ZERO WIDTH SPACE}", "\N{ZERO WIDTH NO-BREAK SPACE}\N{NO-BREAK SPACE}"])
def test_texts_without_a_character_that_can_be_seen_are_refused_and_such_captions_left_out(
    tmp_path: Path, blank: str
) -> None:
    folder = makers.ag_news(tmp_path / "csv")
    with (folder / "train.csv").open("a") as file:
        file.write(f'1,"{blank}","{blank}"\n')
    refused("ag-news", folder, r"train.csv:21: has no text", ClientKind.TEXT)
    texts = makers.parquet(tmp_path / "texts", "text", "label", text=["a", "b", blank, "d", "e", "f"])
    refused("parquet", texts, r"row 2: column 'text' holds no text, but a blank", ClientKind.TEXT)
    pairs = makers.coco(tmp_path / "coco")
    content = json.loads((pairs / "captions_train.json").read_text())
    content["annotations"][0]["caption"] = blank
    (pairs / "captions_train.json").write_text(json.dumps(content))
    data = load_client_data("coco", pairs, ClientKind.PAIR)
    assert [len(captions) for captions in data.train.captions] == [1, 2, 2, 2]  # type: ignore[union-attr]
    assert "1 blank captions are left out" in data.listing.notes


def test_a_picture_that_parquet_only_names_a_folder_in_place_of_a_shard_and_packed_images_are_told(
    tmp_path: Path,
) -> None:
    cells = [{"bytes": None, "path": "/data/cat.png"}] * 6
    folder = makers.parquet(tmp_path / "paths", "image", "label", image=cells)
    refused("parquet", folder, r"row 0: column 'image' holds only the path '/data/cat.png'", ClientKind.IMAGE)
    folder = makers.parquet(tmp_path / "spark", "text", "label")
    shard = folder / "train-00000-of-00001.parquet"
    (folder / "part-0.parquet").write_bytes(shard.read_bytes())
    shard.unlink()
    shard.mkdir()
    refused(
        "parquet", folder, r"is a folder; .*options.train.* to train-00000-of-00001.parquet/\*.parquet", ClientKind.TEXT
    )
    folder = makers.karpathy(tmp_path / "zip")
    (folder / "images.tar").rename(folder / "images.zip")
    refused("flickr", folder, r"neither .*; unpack images.zip into images/")


@pytest.mark.parametrize("option", ["images", "annotations"])
def test_names_too_long_for_the_file_system_are_no_such_file(tmp_path: Path, option: str) -> None:
    with pytest.raises(DataError, match="no such f"):
        load_client_data("flickr", makers.karpathy(tmp_path), ClientKind.PAIR, {option: "x" * 300})
    with pytest.raises(DataError, match="not a folder"):
        load_client_data("flickr", tmp_path / ("x" * 300), ClientKind.PAIR)
