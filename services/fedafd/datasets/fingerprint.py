"""What a site's data are, as a number that depends on no order: a digest of each sample, and one of them all.

A sample's digest covers its split, the name of its class, and its content: the bytes of an image's file, or the pixels
where an image comes from no file; texts and captions as they are read. The place and the name of a file do not count,
nor does the number that a class happens to have.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fedafd.datasets.labels import label_names
from fedafd.datasets.samples import ClientData, ImageArray, PairSplit, Split, TextSplit
from fedafd.domain.errors import DataError

__all__ = [
    "Change",
    "DataFingerprint",
    "content_of",
    "data_fingerprint",
    "fingerprint_of",
    "joined",
    "label_of",
    "pixels_content",
    "sample_digest",
    "splits_of",
    "text_content",
]

DIGEST_BYTES = 16
_VERSION = b"fedafd-data-1"


class Change(NamedTuple):
    """How many samples of a split came and went."""

    added: int
    removed: int


@dataclass(frozen=True)
class DataFingerprint:
    """The digests of all samples: by split, each split's sorted and joined."""

    digests: Mapping[str, bytes] = field(repr=False)

    @property
    def value(self) -> str:
        """The data in one number, as 64 hexadecimal digits."""
        whole = hashlib.sha256(_VERSION)
        for split in sorted(self.digests):
            whole.update(hashlib.sha256(split.encode()).digest())
            whole.update(hashlib.sha256(self.digests[split]).digest())
        return whole.hexdigest()

    def changes_since(self, earlier: DataFingerprint) -> dict[str, Change]:
        """What came and went in each split whose samples differ; a sample that is there twice counts twice."""
        changes = {}
        for split in {**earlier.digests, **self.digests}:
            old, new = Counter(_rows(earlier.digests.get(split, b""))), Counter(_rows(self.digests.get(split, b"")))
            change = Change((new - old).total(), (old - new).total())
            if change != (0, 0):
                changes[split] = change
        return changes

    def to_bytes(self) -> bytes:
        """For a file, as NumPy's .npz: an array uint8 [n, 16] by split."""
        arrays: dict[str, Any] = {
            split: np.frombuffer(rows, np.uint8).reshape(-1, DIGEST_BYTES) for split, rows in self.digests.items()
        }
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> DataFingerprint:
        """The inverse of `to_bytes`. Raises DataError for anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return cls({split: arrays[split].astype(np.uint8).tobytes() for split in arrays.files})
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"not a fingerprint of data: {error}") from None


def data_fingerprint(data: ClientData) -> DataFingerprint:
    """Read every sample once, without decoding a file. Raises DataError for a file that cannot be read."""
    return DataFingerprint({name: joined(_digests(data, name, split)) for name, split in splits_of(data).items()})


def fingerprint_of(data: ClientData) -> str:
    """The data in one number; equal for equal samples with equal class names, in whatever order they come."""
    return data_fingerprint(data).value


def splits_of(data: ClientData) -> dict[str, Split]:
    """The splits by name, in their order."""
    return {"train": data.train, "val": data.val, "test": data.test}


def joined(digests: Iterable[bytes]) -> bytes:
    """Digests of one split as DataFingerprint holds them."""
    return b"".join(sorted(digests))


def sample_digest(split: str, label: str | None, parts: Sequence[bytes]) -> bytes:
    """The digest of a sample: 16 bytes over its split, its class's name (None for pairs), and its content."""
    whole = hashlib.blake2b(_VERSION, digest_size=DIGEST_BYTES)
    for part in (split.encode(), b"" if label is None else b"=" + label.encode("utf-8", "surrogatepass"), *parts):
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()


def image_content(images: Sequence[ImageArray], index: int) -> bytes:
    """What an image's digest covers: the content of its file, else its shape and pixels."""
    encoded = getattr(images, "encoded", None)
    content: bytes | None = None if encoded is None else encoded(index)
    return pixels_content(images[index]) if content is None else content


def pixels_content(image: ImageArray) -> bytes:
    """An image's shape and pixels."""
    return b"pixels" + repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()


def text_content(text: str) -> bytes:
    """A text as bytes, whatever characters it holds."""
    return text.encode("utf-8", "surrogatepass")


def content_of(split: Split, index: int) -> list[bytes]:
    """What the digest of the sample `index` covers."""
    if isinstance(split, TextSplit):
        return [text_content(split.texts[index])]
    captions = split.captions[index] if isinstance(split, PairSplit) else ()
    return [image_content(split.images, index), *(text_content(caption) for caption in captions)]


def label_of(data: ClientData, split: Split, index: int) -> str | None:
    """The name of a sample's class, or of its labels; None for pairs."""
    return None if isinstance(split, PairSplit) else "\x1f".join(label_names(split.labels, index, data.labels))


def _digests(data: ClientData, name: str, split: Split) -> Iterator[bytes]:
    return (sample_digest(name, label_of(data, split, i), content_of(split, i)) for i in range(len(split)))


def _rows(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
