"""The public set: written, hashed, read once, and refused when it is not what the manifest says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.datasets import makers
from tests.datasets.dicom_files import PATIENT, RAMP, dicom

from fedafd.artifacts.manifest import Manifest
from fedafd.datasets import PixelCache, PublicSet, load_public_data, read_manifest, write_public_set
from fedafd.datasets import public_set as module
from fedafd.datasets.pixels import resized_all
from fedafd.datasets.samples import LazyImages, PairSplit
from fedafd.domain.errors import ArtifactCorruptError, DataError
from fedafd.domain.hashing import file_sha256

SHAPES = {"num_train": 7, "num_val": 2, "num_test": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_public_set(load_public_data("shapes", None, SHAPES), tmp_path / "set", rows_per_shard=3)
    return tmp_path / "set"


def test_what_is_written_is_read_back_in_order(folder: Path) -> None:
    made, original = PublicSet.open(folder), load_public_data("shapes", None, SHAPES)
    for name, samples in original.items():
        back = made.split(name)
        assert len(back) == len(samples) == made.manifest.num_samples(name)
        assert list(back.captions) == list(samples.captions)
        assert back.ids == samples.ids
        for one, other in zip(back.images, samples.images, strict=True):
            np.testing.assert_array_equal(one, other)


def test_pictures_that_not_everybody_decodes_alike_are_stored_as_png(tmp_path: Path) -> None:
    deep = np.full((4, 4), 2000, np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, format="PNG")
    files = [dicom(RAMP, WindowCenter=2048, WindowWidth=1000), buffer.getvalue(), makers.picture(form="JPEG")]
    names = ["scan1.dcm", "scan2.png", "photo.jpg"]
    ranged = LazyImages(3, files.__getitem__, names.__getitem__, intensity_range=(1000, 3000))
    plain = LazyImages(1, files.__getitem__, names.__getitem__)
    captions = [("a",), ("b",), ("c",)]
    splits = {"train": PairSplit(ranged, captions, tuple(names)), "val": PairSplit(plain, captions[:1], ("scan1.dcm",))}
    write_public_set(splits, tmp_path)
    read = PublicSet.open(tmp_path)
    for split, samples in splits.items():
        for made, expected in zip(read.split(split).images, samples.images, strict=True):
            np.testing.assert_array_equal(made, expected)
    assert not any(PATIENT.encode() in path.read_bytes() for path in tmp_path.iterdir())
    stored = [row["bytes"] for path in tmp_path.glob("*.parquet") for row in pq.read_table(path)["image"].to_pylist()]
    assert all(content.startswith(b"\x89PNG") for content in stored)
    kept = PairSplit(LazyImages(1, files[2:].__getitem__, names[2:].__getitem__), captions[:1], ("photo",))
    write_public_set({"train": kept}, tmp_path / "kept")
    assert PublicSet.open(tmp_path / "kept").split("train").images.encoded(0) == files[2]  # type: ignore[attr-defined]


def test_equal_samples_have_equal_hashes(folder: Path, tmp_path: Path) -> None:
    again = write_public_set(load_public_data("shapes", None, SHAPES), tmp_path / "again", rows_per_shard=3)
    assert again.sha256 == PublicSet.open(folder).manifest.sha256
    other = write_public_set(load_public_data("shapes", None, SHAPES | {"seed": 1}), tmp_path / "o", rows_per_shard=3)
    assert other.sha256 != again.sha256


def test_a_shard_is_hashed_once_and_images_are_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def noted(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(module, "file_sha256", noted)
    for _ in range(3):
        public = PublicSet.open(folder)
        assert public.split("train") is public.split("train")
        resized_all(public.split("train").images, 16)
    assert sorted(path.name for path in hashed) == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]


def test_an_encoder_reads_its_pixels_from_the_cache(folder: Path, tmp_path: Path) -> None:
    from fedafd.learning.images import image_pixels

    plain = image_pixels(PublicSet.open(folder).split("train").images, 16)
    public = PublicSet.open(folder)
    cached = PublicSet(
        public.manifest,
        {shard.name: folder / shard.name for shard in public.manifest.shards},
        pixels=PixelCache(tmp_path / "pixels", limit_bytes=10**8),
    )
    for _ in range(2):
        assert image_pixels(cached.split("train").images, 16).equal(plain)
    assert len(list((tmp_path / "pixels").iterdir())) == 1


def test_a_shard_with_another_content_is_refused(folder: Path) -> None:
    path = folder / "train-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactCorruptError, match=r"train-00001.parquet: content differs"):
        PublicSet.open(folder).split("train")
    PublicSet.open(folder).split("val")


def test_a_missing_shard_or_manifest_is_named(folder: Path) -> None:
    (folder / "val-00000.parquet").unlink()
    with pytest.raises(DataError, match=r"val-00000.parquet: missing, but named by"):
        PublicSet.open(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="manifest"):
        PublicSet.open(folder)


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'dev'; it has test, train, val"):
        PublicSet.open(folder).split("dev")


def _with_table(folder: Path, table: pa.Table, num_rows: int = 3) -> PublicSet:
    import hashlib

    path = folder / "train-00000.parquet"
    pq.write_table(table, path)
    content = json.loads((folder / "manifest.json").read_bytes())
    for shard in content["shards"]:
        if shard["name"] == path.name:
            shard |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "num_rows": num_rows}
    manifest = Manifest.model_validate(content)
    return PublicSet(manifest, {shard.name: folder / shard.name for shard in manifest.shards})


def test_a_shard_of_other_columns_or_rows_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"train-00000.parquet: not a public set shard"):
        _with_table(folder, pa.table({"image": ["x"], "id": ["1"]})).split("train")
    with pytest.raises(DataError, match=r"train-00000.parquet: not a public set shard"):
        _with_table(folder, pa.table({"image": ["x"], "captions": [1], "id": ["1"]})).split("train")
    good = pq.read_table(folder / "val-00000.parquet")
    with pytest.raises(DataError, match="holds 2 rows, the manifest says 3"):
        _with_table(folder, good).split("train")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", "top level"),
        (b"{", "top level"),
        (b'{"version": 1, "shards": []}', "shards"),
        (b'{"version": 2, "shards": []}', "version"),
        (b'{"version": 1, "shards": [{"split": "train", "name": "../../etc/passwd.parquet"}]}', "shards.0.name"),
        (b'{"version": 1, "shards": [], "extra": 1}', "shards"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_place(content: bytes, place: str) -> None:
    with pytest.raises(DataError, match=f"public set manifest, {place}"):
        read_manifest(content)


def test_a_sample_without_a_caption_or_a_split_without_samples_is_refused(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(DataError, match=r"split train: sample a has no caption"):
        write_public_set({"train": PairSplit([image], [("  ",)], ("a",))}, tmp_path)
    with pytest.raises(DataError, match=r"split train: no samples"):
        write_public_set({"train": PairSplit([], [], ())}, tmp_path)
