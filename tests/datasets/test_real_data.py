"""The small cuts of real data sets, where they lie beside the checkout or FEDAFD_TEST_DATA says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedafd.datasets import PublicSet, load_client_data, load_public_data, write_public_set
from fedafd.datasets.cuts import real_cuts
from fedafd.domain.config import PartitionConfig
from fedafd.domain.kinds import ClientKind


def test_the_three_cuts_have_the_sizes_that_their_description_says(real_data: Path) -> None:
    public, clients = real_cuts(real_data)
    sizes = {}
    for kind, source in clients.items():
        data = load_client_data(source.adapter, source.path, kind, source.options)
        sizes[kind] = (len(data.train), len(data.val), len(data.test), len(data.labels))
    assert sizes == {
        ClientKind.IMAGE: (6000, 300, 1500, 100),
        ClientKind.TEXT: (12000, 800, 2000, 4),
        ClientKind.PAIR: (1500, 300, 700, 0),
    }
    splits = load_public_data(public.adapter, public.path, public.options)
    assert {name: len(split) for name, split in splits.items()} == {"train": 2500, "val": 300, "test": 700}


def test_flickr_pictures_and_captions_belong_together(real_data: Path) -> None:
    splits = load_public_data("flickr", real_data / "flickr8k", {"role": "public"})
    names = (real_data / "flickr8k" / "splits" / "train_public.txt").read_text().split()
    assert sorted(splits["train"].ids) == sorted(names)
    assert all(len(captions) == 5 for captions in splits["train"].captions)
    assert splits["test"].images[699].shape == (96, 96, 3)
    assert splits["train"].images[0].std() > 1


def test_the_same_captions_in_cocos_layout_give_the_same_pairs(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "flickr8k"
    for split, name in (("train", "train_public"), ("val", "val"), ("test", "test")):
        (tmp_path / f"captions_{split}.json").symlink_to(folder / f"captions_{name}.json")
    (tmp_path / "images.tar").symlink_to(folder / "images_96.tar")
    coco = load_public_data("coco", tmp_path)
    flickr = load_public_data("flickr", folder, {"role": "public"})
    for split in ("train", "val", "test"):
        mine = dict(zip(coco[split].ids, coco[split].captions, strict=True))
        theirs = dict(zip(flickr[split].ids, flickr[split].captions, strict=True))
        assert mine == theirs
    np.testing.assert_array_equal(
        coco["val"].images[0], flickr["val"].images[flickr["val"].ids.index(coco["val"].ids[0])]
    )


def test_ag_news_and_cifar_look_as_they_should(real_data: Path) -> None:
    texts = load_client_data("ag-news", real_data / "ag_news_csv", ClientKind.TEXT)
    assert texts.labels == ("World", "Sports", "Business", "Sci/Tech")
    assert not any("#39;" in text or "\\" in text for text in texts.train.texts)  # type: ignore[union-attr]
    images = load_client_data("cifar100", real_data / "cifar100", ClientKind.IMAGE)
    assert np.bincount(images.train.labels).tolist() == [60] * 100  # type: ignore[union-attr]
    share = PartitionConfig(scheme="dirichlet", alpha=0.1, num_clients=5, index=2)
    part = load_client_data("cifar100", real_data / "cifar100", ClientKind.IMAGE, {}, share)
    assert 0 < len(part.train) < 6000


def test_a_real_public_set_is_written_and_read(real_data: Path, tmp_path: Path) -> None:
    splits = load_public_data("flickr", real_data / "flickr8k", {"role": "public", "limit": 40})
    manifest = write_public_set(splits, tmp_path)
    back = PublicSet.open(tmp_path).split("train")
    assert (manifest.num_samples(), len(back)) == (40, 40)
    np.testing.assert_array_equal(back.images[39], splits["train"].images[39])
