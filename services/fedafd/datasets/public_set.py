"""The public set on disk: Parquet shards in the Hugging Face image layout, and a manifest that names them by hash.

Columns: `image` (struct of bytes and path), `captions` (list of strings), `id` (string). Split `train` is the public
set proper, which every participant encodes; `val` and `test` serve the server's evaluation. The SHA-256 of the
manifest's bytes names the whole set: two participants with equal hashes hold equal samples in equal order.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from fedafd.artifacts.manifest import MANIFEST_NAME, Manifest, Shard, read_manifest
from fedafd.datasets.image_fit import ImageFit
from fedafd.datasets.parquet_files import bounded_batches
from fedafd.datasets.pixels import PixelCache, resized_all
from fedafd.datasets.samples import LazyImages, PairSplit
from fedafd.datasets.texts import sound_text
from fedafd.domain.blame import blaming
from fedafd.domain.errors import ArtifactCorruptError, DataError, PublicSetError
from fedafd.domain.hashing import file_sha256, sha256_of

__all__ = ["MANIFEST_NAME", "Manifest", "PublicImages", "PublicSet", "Shard", "read_manifest", "write_public_set"]

_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("captions", pa.list_(pa.string())),
        ("id", pa.string()),
    ]
)


_verified: set[tuple[str, int, int, str]] = set()
"""Files whose hash this process has checked: path, inode, length, SHA-256. Shards are replaced whole, never changed."""


class PublicSet:
    """A manifest and the local files of its shards, by name. Each split is read once.

    `fetch` brings a shard that is not at its path (yet, or any more). With `pixels` the images are decoded once for
    each size and kept there.
    """

    def __init__(
        self,
        manifest: Manifest,
        files: Mapping[str, Path],
        *,
        fetch: Callable[[Shard, Path], None] | None = None,
        pixels: PixelCache | None = None,
    ) -> None:
        self.manifest = manifest
        self._files, self._fetch, self._pixels = files, fetch, pixels
        self._splits: dict[str, PairSplit] = {}

    @classmethod
    def open(cls, folder: Path) -> PublicSet:
        """The set in `folder`, as write_public_set left it; raises DataError if a file is missing."""
        manifest = read_manifest((folder / MANIFEST_NAME).read_bytes() if (folder / MANIFEST_NAME).is_file() else b"")
        files = {shard.name: folder / shard.name for shard in manifest.shards}
        for path in files.values():
            if not path.is_file():
                raise DataError(f"{path}: missing, but named by {folder / MANIFEST_NAME}")
        return cls(manifest, files)

    def with_shards(self, shards: Sequence[Shard]) -> PublicSet:
        """A set of these of its shards alone, so that no other is fetched; its hash is not this set's."""
        return PublicSet(Manifest(shards=tuple(shards)), self._files, fetch=self._fetch)

    def split(self, name: str) -> PairSplit:
        """One split's samples. Checks each shard's hash, once per process and file; images are read when asked for.

        Raises ArtifactCorruptError for a wrong hash, PublicSetError for a bad table or a split that the set does not
        have.
        """
        if name not in self._splits:
            with blaming(PublicSetError):
                self._splits[name] = self._read(name)
        return self._splits[name]

    def _read(self, name: str) -> PairSplit:
        shards = [shard for shard in self.manifest.shards if shard.split == name]
        if not shards:
            known = ", ".join(sorted({shard.split for shard in self.manifest.shards}))
            raise DataError(f"public set {self.manifest.sha256}: has no split {name!r}; it has {known}")
        captions: list[tuple[str, ...]] = []
        ids: list[str] = []
        for shard in shards:
            table = _read_shard(self._file(shard), shard, ["captions", "id"])
            captions += [tuple(texts) for texts in table["captions"].to_pylist()]
            ids += table["id"].to_pylist()
        key = f"{self.manifest.sha256}-{name}"
        images = PublicImages(shards, self._file, lambda i: f"public sample {ids[i]}", key, self._pixels)
        return PairSplit(images, captions, tuple(ids))

    def _file(self, shard: Shard) -> Path:
        path = self._files[shard.name]
        if self._fetch is not None and not path.is_file():
            self._fetch(shard, path)
        return path


class PublicImages(LazyImages):
    """Images of one split. One shard's file contents are in memory at a time."""

    def __init__(
        self,
        shards: Sequence[Shard],
        file: Callable[[Shard], Path],
        name: Callable[[int], str],
        key: str,
        cache: PixelCache | None,
    ) -> None:
        super().__init__(sum(shard.num_rows for shard in shards), self._content, name)
        self._shards, self._file, self._key, self._cache = shards, file, key, cache
        self._first = [0, *accumulate(shard.num_rows for shard in shards)]
        self._last_group: tuple[int, list[bytes]] = (-1, [])

    def resized(self, fit: ImageFit | int) -> NDArray[np.uint8]:
        """All of them brought to one size, uint8 [n, 3, S, S]; from the cache where there is one.

        Raises PublicSetError.
        """
        with blaming(PublicSetError):
            resized = resized_all(self, fit) if self._cache is None else self._cache.pixels(self._key, self, fit)
        self._last_group = (-1, [])
        return resized

    def _content(self, index: int) -> bytes:
        number = bisect_right(self._first, index) - 1
        if number != self._last_group[0]:
            shard = self._shards[number]
            images = _read_shard(self._file(shard), shard, ["image"])["image"].to_pylist()
            self._last_group = (number, [image["bytes"] for image in images])
        return self._last_group[1][index - self._first[number]]


def write_public_set(splits: Mapping[str, PairSplit], folder: Path, rows_per_shard: int = 1000) -> Manifest:
    """Write `splits` into `folder` (made if needed). Returns the manifest, which is also written there.

    Images keep their file content where there is one that everybody decodes alike, else they are stored as PNG. Raises
    DataError for an empty split, a sample without a caption, text that UTF-8 cannot hold, or an image that cannot be
    read.
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
            digest = sha256_of(content)
            shards.append(
                Shard(split=split, name=path.name, sha256=digest, size_bytes=len(content), num_rows=len(rows))
            )
    manifest = Manifest(shards=tuple(shards))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return manifest


def _table(samples: PairSplit, rows: Sequence[int], split: str) -> pa.Table:
    records: list[dict[str, Any]] = []
    for row in rows:
        where = f"public set, split {split}: sample {row}"
        name = sound_text(samples.ids[row], where) if samples.ids else f"{split}-{row}"
        captions = [sound_text(caption, where).strip() for caption in samples.captions[row] if caption.strip()]
        if not captions:
            raise DataError(f"public set, split {split}: sample {name} has no caption")
        records.append({"image": {"bytes": _encoded(samples, row), "path": name}, "captions": captions, "id": name})
    return pa.Table.from_pylist(records, schema=_SCHEMA)


def _encoded(samples: PairSplit, row: int) -> bytes:
    image = samples.images[row]
    content = samples.images.shareable(row) if isinstance(samples.images, LazyImages) else None
    if content is not None:
        return content
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _read_shard(path: Path, shard: Shard, columns: list[str]) -> pa.Table:
    try:
        state = path.stat()
        mark = (str(path), state.st_ino, state.st_size, shard.sha256)
        if mark not in _verified:
            if file_sha256(path) != shard.sha256:
                raise ArtifactCorruptError(
                    f"{path}: content differs from the manifest's hash; fetch the public set again"
                )
            _verified.add(mark)
        table = _bounded_table(path, shard, columns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a public set shard: {error}") from error
    return table


def _bounded_table(path: Path, shard: Shard, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(path) as opened:
        schema = opened.schema_arrow
        if any(
            schema.names.count(name) != 1 or schema.field(name).type != _SCHEMA.field(name).type for name in columns
        ):
            raise DataError(f"{path}: not a public set shard: its columns are {schema.to_string()!r}")
        if opened.metadata.num_rows != shard.num_rows:
            raise DataError(f"{path}: holds {opened.metadata.num_rows} rows, the manifest says {shard.num_rows}")
        batches = list(bounded_batches(opened, columns, path))
    kept = pa.schema([schema.field(name) for name in columns])
    return pa.Table.from_batches([batch.select(columns) for batch in batches], None if batches else kept)
