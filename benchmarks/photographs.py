"""Pictures the size of photographs, as JPEG: what public sets and pair clients are made of."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fedafd.datasets.pixels import PixelCache
from fedafd.datasets.public_set import PublicSet, write_public_set
from fedafd.datasets.samples import ClientData, ImageSplit, LazyImages, PairSplit
from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.kinds import ClientKind

__all__ = ["private_photographs", "public_photographs"]

_SIZE = (500, 375)
"""Flickr's and COCO's are about that."""


def public_photographs(count: int, folder: Path) -> PublicSet:
    """A public set of `count` generated pictures, written as Parquet shards, with a cache of decoded pixels."""
    splits = public_data(ShapesOptions(num_train=count, num_val=8, num_test=8, seed=1))
    splits = {name: PairSplit(_photographs(split.images), split.captions) for name, split in splits.items()}
    manifest = write_public_set(splits, folder / "set")
    files = {shard.name: folder / "set" / shard.name for shard in manifest.shards}
    return PublicSet(manifest, files, pixels=PixelCache(folder / "pixels", limit_bytes=2**32))


def private_photographs(kind: ClientKind, count: int) -> ClientData:
    """A client's private data; images as JPEG files in memory."""
    data = client_data(kind, ShapesOptions(num_train=count, num_val=32, num_test=64, seed=2))
    splits: list[Any] = []
    for split in (data.train, data.val, data.test):
        if isinstance(split, PairSplit):
            splits.append(PairSplit(_photographs(split.images), split.captions))
        elif isinstance(split, ImageSplit):
            splits.append(ImageSplit(_photographs(split.images), split.labels))
        else:
            splits.append(split)
    train, val, test = splits
    return ClientData(data.kind, train, val, test, labels=data.labels)


def _photographs(images: Sequence[object]) -> LazyImages:
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).resize(_SIZE).save(buffer, format="JPEG", quality=90)  # type: ignore[arg-type]
        files.append(buffer.getvalue())
    return LazyImages(len(files), files.__getitem__, lambda i: f"picture {i}")
