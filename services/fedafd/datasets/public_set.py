"""The public set on disk: Parquet shards in the Hugging Face image layout, and a manifest that names them by hash.

Columns: `image` (struct of bytes and path), `captions` (list of strings), `id` (string). Split `train` is the public
set proper, which every participant encodes; `val` and `test` serve the server's evaluation. The SHA-256 of the
manifest's bytes names the whole set: two participants with equal hashes hold equal samples in equal order.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fedafd.datasets.samples import LazyImages, PairSplit
from fedafd.domain.errors import ArtifactCorruptError, DataError
from fedafd.domain.manifest import MANIFEST_NAME, Manifest, Shard, read_manifest

__all__ = ["MANIFEST_NAME", "Manifest", "PublicSet", "Shard", "read_manifest", "write_public_set"]

_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("captions", pa.list_(pa.string())),
        ("id", pa.string()),
    ]
)


@dataclass(frozen=True)
class PublicSet:
    """A manifest and the local files of its shards, by name."""

    manifest: Manifest
    files: Mapping[str, Path]

    @classmethod
    def open(cls, folder: Path) -> PublicSet:
        """The set in `folder`, as write_public_set left it; raises DataError if a file is missing."""
        manifest = read_manifest((folder / MANIFEST_NAME).read_bytes() if (folder / MANIFEST_NAME).is_file() else b"")
        files = {shard.name: folder / shard.name for shard in manifest.shards}
        for path in files.values():
            if not path.is_file():
                raise DataError(f"{path}: missing, but named by {folder / MANIFEST_NAME}")
        return cls(manifest, files)

    def split(self, name: str) -> PairSplit:
        """One split's samples. Checks each shard's hash; raises ArtifactCorruptError, or DataError for a bad table."""
        images: list[bytes] = []
        captions: list[tuple[str, ...]] = []
        ids: list[str] = []
        for shard in self.manifest.shards:
            if shard.split == name:
                table = _read_shard(self.files[shard.name], shard)
                images += [image["bytes"] for image in table["image"].to_pylist()]
                captions += [tuple(texts) for texts in table["captions"].to_pylist()]
                ids += table["id"].to_pylist()
        return PairSplit(
            LazyImages(len(images), images.__getitem__, lambda i: f"public sample {ids[i]}"), captions, tuple(ids)
        )


def write_public_set(splits: Mapping[str, PairSplit], folder: Path, rows_per_shard: int = 1000) -> Manifest:
    """Write `splits` into `folder` (made if needed). Returns the manifest, which is also written there.

    Images keep their file content where there is one, else they are stored as PNG. Raises DataError for an empty split,
    a sample without a caption, or an image that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for split, samples in splits.items():
        if not len(samples):
            raise DataError(f"public set, split {split}: no samples")
        for number, start in enumerate(range(0, len(samples), rows_per_shard)):
            rows = range(start, min(start + rows_per_shard, len(samples)))
            path = folder / f"{split}-{number:05d}.parquet"
            pq.write_table(_table(samples, rows, split), path, compression="zstd")
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            shards.append(
                Shard(split=split, name=path.name, sha256=digest, size_bytes=len(content), num_rows=len(rows))
            )
    manifest = Manifest(shards=tuple(shards))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return manifest


def _table(samples: PairSplit, rows: Sequence[int], split: str) -> pa.Table:
    records: list[dict[str, Any]] = []
    for row in rows:
        name = samples.ids[row] if samples.ids else f"{split}-{row}"
        captions = [caption.strip() for caption in samples.captions[row] if caption.strip()]
        if not captions:
            raise DataError(f"public set, split {split}: sample {name} has no caption")
        records.append({"image": {"bytes": _encoded(samples, row), "path": name}, "captions": captions, "id": name})
    return pa.Table.from_pylist(records, schema=_SCHEMA)


def _encoded(samples: PairSplit, row: int) -> bytes:
    image = samples.images[row]
    if isinstance(samples.images, LazyImages):
        return samples.images.encoded(row)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _read_shard(path: Path, shard: Shard) -> pa.Table:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise ArtifactCorruptError(f"{path}: content differs from the manifest's hash; fetch the public set again")
    try:
        table = pq.read_table(io.BytesIO(content), schema=_SCHEMA)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a public set shard: {error}") from error
    if table.num_rows != shard.num_rows:
        raise DataError(f"{path}: holds {table.num_rows} rows, the manifest says {shard.num_rows}")
    return table
