"""Every adapter reads what its layout promises: kinds, counts, labels, shapes, order."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.datasets import makers

from fedafd.datasets import ImageSplit, PairSplit, TextSplit, load_client_data, load_public_data
from fedafd.datasets.registry import adapter_names
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind


def test_shapes_is_seeded_unlimited_and_the_same_world_for_all_kinds() -> None:
    sizes = {"num_train": 30, "num_val": 5, "num_test": 6}
    for kind in ClientKind:
        one, same = (load_client_data("shapes", None, kind, sizes | {"seed": 3}) for _ in range(2))
        more = load_client_data("shapes", None, kind, sizes | {"seed": 3, "num_train": 40})
        other = load_client_data("shapes", None, kind, sizes | {"seed": 4})
        assert (len(one.train), len(one.val), len(one.test)) == (30, 5, 6)
        assert _content(one.train) == _content(same.train) == _content(more.train.take(range(30)))
        assert _content(one.train) != _content(other.train)
        assert bool(one.labels) == (kind is not ClientKind.PAIR)


def test_shapes_captions_name_what_the_picture_shows() -> None:
    from fedafd.datasets.shapes import COLOURS, SHAPES

    pairs = load_public_data("shapes", None, {"num_train": 40, "num_val": 1, "num_test": 1})["train"]
    for captions in pairs.captions:
        shapes = {word for caption in captions for word in caption.split() if word in SHAPES}
        colours = {word for caption in captions for word in caption.split() if word in COLOURS}
        assert len(shapes) == len(colours) == 1
        assert len(set(captions)) == 3


def test_cifar100_from_npz(tmp_path: Path) -> None:
    data = load_client_data("cifar100", makers.cifar_npz(tmp_path), ClientKind.IMAGE)
    assert isinstance(data.train, ImageSplit)
    assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 4)
    assert data.labels == ("class0", "class1", "class2", "class3")
    assert data.train.images[0].shape == (32, 32, 3)
    assert data.train.labels.dtype == np.int64


def test_cifar100_from_the_official_files(tmp_path: Path) -> None:
    data = load_client_data("cifar100", makers.cifar_official(tmp_path), ClientKind.IMAGE)
    assert (len(data.train), len(data.val), len(data.test)) == (17, 3, 6)
    assert data.labels == ("apple", "bear", "cup")
    assert sorted(data.val.labels.tolist()) == [0, 1, 2]  # type: ignore[union-attr]
    flat = pickle.loads((tmp_path / "train").read_bytes(), encoding="bytes")[b"data"]
    shown = {image.reshape(3, 32, 32).transpose(1, 2, 0).tobytes(): n % 3 for n, image in enumerate(flat)}
    for split in (data.train, data.val):
        assert isinstance(split, ImageSplit)
        assert [shown.pop(image.tobytes()) for image in split.images] == split.labels.tolist()
    assert not shown


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_the_official_files_are_read_in_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    content = {"data": np.zeros((10, 3072), np.uint8), "fine_labels": [0, 1] * 5}
    made = {name: pickle.dumps(content, protocol) for name in ("train", "test")}
    made["meta"] = pickle.dumps({"fine_label_names": ["a", "b"]}, protocol)
    assert len(load_client_data("cifar100", makers.cifar_official(tmp_path, **made), ClientKind.IMAGE).test) == 10


def test_the_official_files_are_cut_within_each_class_even_where_rows_are_sorted(tmp_path: Path) -> None:
    labels = [n // 10 for n in range(30)]
    train = {b"data": np.zeros((30, 3072), np.uint8), b"fine_labels": labels}
    folder = makers.cifar_official(tmp_path, train=train)
    data = load_client_data("cifar100", folder, ClientKind.IMAGE)
    assert data.val.labels.tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert "made from train by split_seed 0" in data.listing.notes[0]
    more = load_client_data("cifar100", folder, ClientKind.IMAGE, {"val_fraction": 0.3, "split_seed": 5})
    assert more.val.labels.tolist() == [n // 3 for n in range(9)]  # type: ignore[union-attr]


def test_several_sources_of_cifar_are_named_until_an_option_decides(tmp_path: Path) -> None:
    makers.cifar_npz(tmp_path)
    (tmp_path / "other.npz").write_bytes((tmp_path / "cifar.npz").read_bytes())
    with pytest.raises(DataError, match="cifar.npz, other.npz could each be the data; set the option file"):
        load_client_data("cifar100", tmp_path, ClientKind.IMAGE)
    data = load_client_data("cifar100", tmp_path, ClientKind.IMAGE, {"file": "other.npz"})
    assert [(entry.reason.value, entry.examples) for entry in data.listing.left_out] == [("unused", ("cifar.npz",))]
    (tmp_path / "other.npz").unlink()
    makers.cifar_official(tmp_path)
    with pytest.raises(DataError, match="cifar.npz, meta could each be the data"):
        load_client_data("cifar100", tmp_path, ClientKind.IMAGE)
    assert load_client_data("cifar100", tmp_path, ClientKind.IMAGE, {"file": "meta"}).labels[0] == "apple"
    with pytest.raises(DataError, match="no such file"):
        load_client_data("cifar100", tmp_path, ClientKind.IMAGE, {"file": "third.npz"})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (np.array([b"a", b"b", "caf\u00e9".encode(), b"d"]), ("a", "b", "caf\u00e9", "d")),
        (np.array(["a", "b", "cafe\u0301", "d"]), ("a", "b", "caf\u00e9", "d")),
        (np.arange(4), ("0", "1", "2", "3")),
        (np.array(["a", "b", "c", "d", "e"]), ("a", "b", "c", "d")),
    ],
    ids=["bytes", "parted", "numbers", "one without samples"],
)
def test_class_names_of_an_npz_are_text(tmp_path: Path, names: np.ndarray, expected: tuple[str, ...]) -> None:
    data = load_client_data("cifar100", makers.cifar_npz(tmp_path, class_names=names), ClientKind.IMAGE)
    assert data.labels == expected


def test_image_folder_with_and_without_split_folders(tmp_path: Path) -> None:
    data = load_client_data("image-folder", makers.image_folder(tmp_path / "a", splits=True), ClientKind.IMAGE)
    assert (len(data.train), len(data.val), len(data.test), data.labels) == (12, 12, 12, ("cat", "dog"))
    (tmp_path / "b" / ".cache").mkdir(parents=True)
    folder = makers.image_folder(tmp_path / "b", splits=False, per_class=20)
    data = load_client_data("image-folder", folder, ClientKind.IMAGE)
    assert (len(data.train), len(data.val), len(data.test), data.labels) == (28, 4, 8, ("cat", "dog"))
    assert isinstance(data.train, ImageSplit)
    assert data.train.images[0].shape == (10, 12, 3)
    assert set(data.test.labels.tolist()) == {0, 1}  # type: ignore[union-attr]


def test_ag_news_joins_title_and_description_and_mends_bare_entities(tmp_path: Path) -> None:
    data = load_client_data("ag-news", makers.ag_news(tmp_path / "a"), ClientKind.TEXT)
    assert isinstance(data.train, TextSplit)
    assert data.train.texts[3] == "title train 3 text '3 ' & more here"
    assert data.train.labels.tolist() == [0, 1] * 10
    assert data.labels == ("World", "Sports")
    without = load_client_data("ag-news", makers.ag_news(tmp_path / "b", val=False), ClientKind.TEXT)
    assert (len(without.train), len(without.val), len(without.test)) == (18, 2, 20)
    assert not set(without.train.texts) & set(without.val.texts)  # type: ignore[union-attr]


@pytest.mark.parametrize("images", ["tar", "folder"])
def test_flickr_from_karpathy_json(tmp_path: Path, images: str) -> None:
    folder = makers.karpathy(tmp_path, images=images)
    splits = load_public_data("flickr", folder)
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "val": 2, "test": 2}
    assert splits["test"].captions[1] == ("caption 0 of test1.jpg", "caption 1 of test1.jpg")
    assert splits["test"].ids == ("test0.jpg", "test1.jpg")
    assert splits["test"].images[1].shape == (10, 12, 3)
    public, private = (load_public_data("flickr", folder, {"role": role})["train"] for role in ("public", "private"))
    assert sorted(public.ids + private.ids) == sorted(splits["train"].ids)
    assert len(load_public_data("flickr", folder, {"limit": 2})["train"]) == 2


@pytest.mark.parametrize("images", ["tar", "folder"])
def test_coco_from_captions_json(tmp_path: Path, images: str) -> None:
    data = load_client_data("coco", makers.coco(tmp_path, images=images), ClientKind.PAIR)
    assert isinstance(data.train, PairSplit)
    assert (len(data.train), len(data.val), len(data.test)) == (4, 2, 2)
    assert data.train.captions[0] == ("a 0 COCO_train_000000000000.jpg", "a 1 COCO_train_000000000000.jpg")
    assert data.train.images[3].shape == (10, 12, 3)


def test_coco_with_the_original_file_names(tmp_path: Path) -> None:
    makers.coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    for split in makers.SPLITS:
        (tmp_path / f"captions_{split}.json").rename(tmp_path / "annotations" / f"captions_{split}2014.json")
    options = {"annotations": "annotations/captions_{split}2014.json"}
    assert len(load_public_data("coco", tmp_path, options)["train"]) == 4
    with pytest.raises(Exception, match=r"captions_train.json \(COCO\); set options.annotations"):
        load_public_data("coco", tmp_path)


def test_karpathys_coco_names_the_folder_apart_from_the_file(tmp_path: Path) -> None:
    import json

    makers.karpathy(tmp_path, images="folder")
    content = json.loads((tmp_path / "dataset_flickr8k.json").read_text())
    for image in content["images"]:
        image["filepath"] = f"{image['split']}2014"
        place = tmp_path / "images" / image["filepath"]
        place.mkdir(exist_ok=True)
        (tmp_path / "images" / image["filename"]).rename(place / image["filename"])
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps(content))
    splits = load_public_data("coco", tmp_path)
    assert splits["val"].ids[0] == "val2014/val0.jpg"
    assert splits["train"].images[5].shape == (10, 12, 3)


def test_parquet_serves_all_kinds_and_the_public_set(tmp_path: Path) -> None:
    pairs = load_public_data("parquet", makers.parquet(tmp_path / "p", "image", "captions", "id"))
    assert {name: len(split) for name, split in pairs.items()} == {"train": 6, "val": 2, "test": 2}
    assert pairs["train"].captions[2] == ("caption 2", "another")
    assert pairs["train"].images[2].shape == (10, 12, 3)
    images = load_client_data("parquet", makers.parquet(tmp_path / "i", "image", "label"), ClientKind.IMAGE)
    assert (len(images.train), images.labels) == (6, ("0", "1"))
    texts = load_client_data("parquet", makers.parquet(tmp_path / "t", "text", "label"), ClientKind.TEXT)
    assert texts.train.texts[5] == "text train 5"  # type: ignore[union-attr]
    named = makers.parquet(tmp_path / "n", "text", "label", label=["b", "a", "c", "a", "b", "10"])
    with pytest.raises(Exception, match=r"validation.*: column 'label' holds whole numbers, but text in .*train"):
        load_client_data("parquet", named, ClientKind.TEXT)


def test_parquet_looks_into_the_folder_data_too(tmp_path: Path) -> None:
    makers.parquet(tmp_path / "data", "image", "captions")
    assert len(load_public_data("parquet", tmp_path)["test"]) == 2


def test_numeric_labels_of_parquet_are_ordered_as_numbers(tmp_path: Path) -> None:
    folder = makers.parquet(tmp_path, "text", "label", label=[10, 9, 2, 1, 0, 1])
    assert load_client_data("parquet", folder, ClientKind.TEXT).labels == ("0", "1", "2", "9", "10")


def test_what_is_picked_stays_lazy(tmp_path: Path) -> None:
    """A partition of a large folder must not decode it."""
    folder = makers.image_folder(tmp_path, splits=True)
    (folder / "train" / "cat" / "0.png").write_bytes(b"not an image")
    data = load_client_data("image-folder", folder, ClientKind.IMAGE)
    assert data.train.take([1, 2]).images[0].shape == (10, 12, 3)  # type: ignore[union-attr]


def test_unknown_adapters_options_and_wrong_kinds_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"'imagenet' is not known; installed: {', '.join(adapter_names())}"):
        load_client_data("imagenet", None, ClientKind.IMAGE)
    assert {"shapes", "cifar100", "image-folder", "ag-news", "flickr", "coco", "parquet"} <= set(adapter_names())
    with pytest.raises(ConfigurationError, match=r"data.options.rolle: flickr has no such option; known: annotations"):
        load_public_data("flickr", tmp_path, {"rolle": "public"})
    with pytest.raises(ConfigurationError, match=r"data.options.role: Input should be 'public' or 'private'"):
        load_public_data("flickr", tmp_path, {"role": "both"})
    for value in ("few", 0, -1):
        with pytest.raises(ConfigurationError, match=r"data.options.limit: .*found"):
            load_public_data("flickr", tmp_path, {"limit": value})
    with pytest.raises(ConfigurationError, match=r"data.options.num_train is 0; shapes needs 1 or more"):
        load_public_data("shapes", None, {"num_train": 0})
    with pytest.raises(ConfigurationError, match=r"data.options.seed"):
        load_public_data("shapes", None, {"seed": "x"})
    for adapter, kind, serves in (
        ("cifar100", "text", "image"),
        ("ag-news", "pair", "text"),
        ("coco", "image", "pair"),
    ):
        with pytest.raises(ConfigurationError, match=f"{adapter}: serves clients of kind {serves}, not {kind}"):
            load_client_data(adapter, tmp_path, ClientKind(kind))
    with pytest.raises(ConfigurationError, match="ag-news: holds no image-caption pairs"):
        load_public_data("ag-news", tmp_path)


def _content(split: object) -> list[object]:
    if isinstance(split, TextSplit):
        return list(zip(split.texts, split.labels.tolist(), strict=True))
    if isinstance(split, ImageSplit):
        return [(image.tobytes(), label) for image, label in zip(split.images, split.labels.tolist(), strict=True)]
    assert isinstance(split, PairSplit)
    return [(image.tobytes(), texts) for image, texts in zip(split.images, split.captions, strict=True)]
