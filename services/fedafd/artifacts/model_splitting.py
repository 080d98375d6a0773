"""How a site finds the parts of its model that the federation has: tensors with the same content, by their hash.

Looked through are the encoder bundles that the round sent, the model that the site delivered before, of which only the
hashes are kept here, and the model itself: several of its encoders may have the same frozen weights.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from fedafd.artifacts.blocks import Span
from fedafd.artifacts.folders import file_spans
from fedafd.artifacts.headers import portions
from fedafd.artifacts.model_parts import (
    MOST_FILES,
    MOST_PIECES,
    NEW,
    BundleBase,
    Count,
    Described,
    FilePieces,
    Hash,
    ModelBase,
    ModelPath,
    Parts,
    pack_parts,
)
from fedafd.domain.errors import DataError
from fedafd.domain.hashing import sha256_of

__all__ = ["DeliveredModel", "SplitModel", "delivered_model", "split_model"]

_WORTH_A_PIECE_BYTES = 256
"""What is shorter is named only where it goes on where the piece before it ended."""
_WORTH_PARTS = 0.9
"""Share of a model that may be new for parts to be worth their making."""
_SAME_CONTENT_AT_MOST = 16
"""Places of one content that are remembered, such as those of a tensor of zeros."""


class DeliveredModel(Described):
    """A model that a site delivered, as hashes of its files and of what is in them."""

    version: Count
    files: dict[ModelPath, Hash]
    """SHA-256 by path."""
    portions: list[tuple[Hash, ModelPath, Count, Count]]
    """SHA-256, path, first byte and length of each tensor and each header."""

    def to_bytes(self) -> bytes:
        """As JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> DeliveredModel:
        """Read back. Raises DataError for anything else."""
        try:
            delivered = cls.model_validate_json(data)
        except ValidationError as error:
            raise DataError(f"not the hashes of a delivered model: {error.errors()[0]['msg']}") from None
        if not {path for _, path, _, _ in delivered.portions} <= delivered.files.keys():
            raise DataError("not the hashes of a delivered model: a file has none")
        return delivered


@dataclass(frozen=True)
class SplitModel:
    """What travels of a model in place of the whole."""

    blob: bytes
    bases: Sequence[BundleBase | ModelBase]
    """Of which the rest is taken."""


@dataclass(frozen=True)
class _Folder:
    """A packed folder on the disk, read where it is looked at."""

    content: memoryview
    spans: dict[str, Span]
    """Where in it each file lies."""

    @classmethod
    def at(cls, packed: Path) -> _Folder:
        with packed.open("rb") as file:
            spans = file_spans(file)
            return cls(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), spans)

    def files(self) -> Iterator[tuple[str, memoryview]]:
        """Path and content, in the order of the paths."""
        for path, span in sorted(self.spans.items()):
            yield path, self.content[span.start : span.end]


@dataclass
class _Origins:
    """Where contents are: source and first byte, by their hash. Sources are numbers of `bases`, or NEW."""

    bases: list[BundleBase | ModelBase] = field(default_factory=list)
    by_hash: defaultdict[bytes, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, digest: bytes, source: int, start: int) -> None:
        if len(self.by_hash[digest]) < _SAME_CONTENT_AT_MOST:
            self.by_hash[digest].append((source, start))

    def of(self, digest: bytes, length: int, following: tuple[int, int] | None) -> tuple[int, int] | None:
        """Where a content is, if that is worth naming; best where it follows the last piece."""
        origins = self.by_hash.get(digest, [])
        if following in origins:
            return following
        return origins[0] if origins and length >= _WORTH_A_PIECE_BYTES else None


def delivered_model(packed: Path, version: int) -> DeliveredModel:
    """The hashes of a packed model folder. Raises UploadError, OSError."""
    files, hashed = {}, []
    for path, content in _Folder.at(packed).files():
        files[path] = sha256_of(content)
        hashed += [(digest.hex(), path, span.start, _length(span)) for digest, span in _hashed(content)]
    return DeliveredModel(version=version, files=files, portions=hashed)


def split_model(packed: Path, bundles: Iterable[Path], delivered: DeliveredModel | None) -> SplitModel | None:
    """What has to travel of a packed model folder, where that is less than the whole; else None.

    `bundles` are those of the round; `delivered` is what the site delivered before. Raises UploadError, OSError.
    """
    origins = _Origins()
    for bundle in bundles:
        _add_bundle(origins, _Folder.at(bundle))
    if delivered is not None:
        _add_delivered(origins, delivered)
    whole = _Folder.at(packed)
    files, new = [], bytearray()
    for path, content in whole.files():
        pieces = [list(piece) for piece in _pieces(content, origins, new)]
        if len(new) > _WORTH_PARTS * len(whole.content):
            return None  # nearly all is new, and would be in memory several times
        files.append(FilePieces(path=path, sha256=sha256_of(content), size_bytes=len(content), pieces=pieces))
    if len(files) > MOST_FILES or sum(len(file.pieces) for file in files) > MOST_PIECES:
        return None
    parts = _named_bases_only(origins.bases, files)
    blob = pack_parts(parts, bytes(new))
    return SplitModel(blob, parts.bases) if len(blob) < len(whole.content) else None


def _pieces(content: memoryview, origins: _Origins, new: bytearray) -> Iterator[tuple[int, int, int]]:
    """Of one file, neighbours joined; adds to `new` what is nowhere yet."""
    last: tuple[int, int, int] | None = None
    for digest, span in _hashed(content):
        length = _length(span)
        origin = origins.of(digest, length, None if last is None else (last[0], last[1] + last[2]))
        if origin is None:
            origin = NEW, len(new)
            new += content[span.start : span.end]
            origins.add(digest, *origin)
        if last is not None and origin == (last[0], last[1] + last[2]):
            last = last[0], last[1], last[2] + length
        else:
            if last is not None:
                yield last
            last = *origin, length
    if last is not None:
        yield last


def _named_bases_only(bases: Sequence[BundleBase | ModelBase], files: Sequence[FilePieces]) -> Parts:
    """The parts with those bases alone that a piece is of."""
    named = sorted({source for file in files for source, _, _ in file.pieces} - {NEW})
    numbers = {NEW: NEW} | {source: number for number, source in enumerate(named, start=1)}
    renumbered = [
        file.model_copy(update={"pieces": [[numbers[source], start, n] for source, start, n in file.pieces]})
        for file in files
    ]
    return Parts(bases=[bases[source - 1] for source in named], files=renumbered)


def _add_bundle(origins: _Origins, bundle: _Folder) -> None:
    origins.bases.append(BundleBase(sha256=sha256_of(bundle.content)))
    for span in bundle.spans.values():
        for digest, inner in _hashed(bundle.content[span.start : span.end]):
            origins.add(digest, len(origins.bases), span.start + inner.start)


def _add_delivered(origins: _Origins, delivered: DeliveredModel) -> None:
    numbers = {}
    for path, sha256 in delivered.files.items():
        origins.bases.append(ModelBase(version=delivered.version, path=path, sha256=sha256))
        numbers[path] = len(origins.bases)
    for digest, path, start, _ in delivered.portions:
        origins.add(bytes.fromhex(digest), numbers[path], start)


def _hashed(content: memoryview) -> Iterator[tuple[bytes, Span]]:
    """Each tensor and header of a file, or the file, with its SHA-256."""
    for span in portions(content):
        yield hashlib.sha256(content[span.start : span.end]).digest(), span


def _length(span: Span) -> int:
    return span.end - span.start
