"""Small valid data folders; a test spoils one thing."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SPLITS = ("train", "val", "test")


def picture(seed: int = 0, size: tuple[int, int] = (12, 10), form: str = "PNG") -> bytes:
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(buffer, format=form)
    return buffer.getvalue()


def cifar_npz(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"class_names": np.array([f"class{n}" for n in range(4)])}
    for split, count in zip(SPLITS, (8, 4, 4), strict=True):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 4
    arrays = {name: value for name, value in (arrays | changes).items() if value is not None}
    np.savez(folder / "cifar.npz", **arrays)
    return folder


def cifar_official(folder: Path, **changes: Any) -> Path:
    """As the University of Toronto ships it: pickles of protocol 2 with bytes keys."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    made: dict[str, Any] = {"meta": {b"fine_label_names": [b"apple", b"bear", b"cup"], b"coarse_label_names": [b"x"]}}
    for name, count in (("train", 20), ("test", 6)):
        made[name] = {
            b"filenames": [f"{n}.png".encode() for n in range(count)],
            b"batch_label": b"training batch 1 of 1",
            b"fine_labels": [n % 3 for n in range(count)],
            b"coarse_labels": [0] * count,
            b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        }
    for name, content in (made | changes).items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
    return folder


def image_folder(folder: Path, *, splits: bool, per_class: int = 6) -> Path:
    for split in SPLITS if splits else ("",):
        for number, name in enumerate(("cat", "dog")):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(per_class):
                (place / f"{index}.png").write_bytes(picture(10 * number + index))
    return folder


def ag_news(folder: Path, *, val: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("World\nSports\n")
    for split in SPLITS if val else ("train", "test"):
        rows = [[str(n % 2 + 1), f"title {split} {n}", f"text #39;{n} #39; &amp; more\\here"] for n in range(20)]
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return folder


def karpathy(folder: Path, *, images: str = "tar", counts: tuple[int, int, int] = (6, 2, 2)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[Any] = []
    files: dict[str, bytes] = {}
    for split, count in zip(SPLITS, counts, strict=True):
        for n in range(count):
            name = f"{split}{n}.jpg"
            files[name] = picture(len(files), form="JPEG")
            entry = {"filename": name, "imgid": len(files), "split": "restval" if name == "train5.jpg" else split}
            entry["sentences"] = [{"raw": f" caption {k} of {name} "} for k in range(2)]
            if split == "train":
                entry["role"] = "public" if n % 2 else "private"
            entries.append(entry)
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": entries, "dataset": "flickr8k"}))
    write_images(folder, files, images)
    return folder


def coco(folder: Path, *, images: str = "folder") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    for split, count in zip(SPLITS, (4, 2, 2), strict=True):
        content: dict[str, Any] = {"images": [], "annotations": [], "info": {}, "licenses": []}
        for n in range(count):
            name = f"COCO_{split}_{n:012d}.jpg"
            files[name] = picture(len(files), form="JPEG")
            content["images"].append({"id": n, "file_name": name, "height": 10, "width": 12})
            content["annotations"] += [{"id": 2 * n + k, "image_id": n, "caption": f"a {k} {name}"} for k in (0, 1)]
        (folder / f"captions_{split}.json").write_text(json.dumps(content))
    write_images(folder, files, images)
    return folder


def write_images(folder: Path, files: dict[str, bytes], kind: str) -> None:
    if kind == "folder":
        (folder / "images").mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / "images" / name).write_bytes(content)
    else:
        write_tar(folder / "images.tar", {f"images/{name}": content for name, content in files.items()})


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def parquet(folder: Path, *columns: str, **changes: Any) -> Path:
    """Hugging Face's layout: an image is a struct of bytes and path."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in zip(("train", "validation", "test"), (6, 2, 2), strict=True):
        made: dict[str, Any] = {
            "image": [{"bytes": picture(n), "path": f"{n}.png"} for n in range(count)],
            "captions": [[f"caption {n}", "another"] for n in range(count)],
            "id": [f"{split}-{n}" for n in range(count)],
            "text": [f"text {split} {n}" for n in range(count)],
            "label": [n % 2 for n in range(count)],
        }
        made = {name: made[name] for name in columns} | (changes if split == "train" else {})
        pq.write_table(pa.table(made), folder / f"{split}-00000-of-00001.parquet")
    return folder
