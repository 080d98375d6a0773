"""A personalized model in parts: what the federation has already is named, and only the rest travels.

A site packs a folder of two files in place of the model's own: `parts.json` says for each file of the model of which
pieces it is made, and `new` holds the bytes that the federation does not have, each tensor once. A piece is a range of
`new`, of an encoder bundle that the round sent to the site, or of a file of a model that the site delivered before.
What is put together has to have the hash that is announced for each file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedafd.artifacts.blocks import Span
from fedafd.artifacts.folders import checked_path, file_spans, pack_folder
from fedafd.domain.errors import UploadError, UploadIncompleteError

__all__ = [
    "MOST_FILES",
    "MOST_PIECES",
    "NEW",
    "BundleBase",
    "Count",
    "Described",
    "FilePieces",
    "Hash",
    "ModelBase",
    "ModelPath",
    "NewBytes",
    "Parts",
    "join_parts",
    "pack_parts",
    "read_parts",
]

NEW = 0
"""The source of a piece that travels along; others are numbers of bases, from 1."""
MOST_PIECES = 4096
"""Of all files: each piece of a base is a read of the object store."""
MOST_FILES = 1000
_MOST_DESCRIPTION_BYTES = 2 << 20
_READ_AT_ONCE = 1 << 20
_DESCRIPTION, _BYTES = "parts.json", "new"
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ModelPath = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f]+$")]
Count = Annotated[int, Field(ge=0, le=2**62)]


class Described(BaseModel):
    """Values of JSON, exactly as they are described."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BundleBase(Described):
    """An encoder bundle that the client's task names."""

    kind: Literal["bundle"] = "bundle"
    sha256: Hash


class ModelBase(Described):
    """A file of a personalized model that the same client delivered."""

    kind: Literal["model"] = "model"
    version: Annotated[int, Field(ge=0, le=2**31 - 1)]
    """Number of the round that it was delivered in."""
    path: ModelPath
    sha256: Hash


class FilePieces(Described):
    """A file of the model: its pieces, one after the other, each as source, first byte and length."""

    path: ModelPath
    sha256: Hash
    size_bytes: Count
    pieces: list[Annotated[list[Count], Field(min_length=3, max_length=3)]]


class Parts(Described):
    """How a model is put together."""

    bases: Annotated[list[Annotated[BundleBase | ModelBase, Field(discriminator="kind")]], Field(max_length=MOST_FILES)]
    files: Annotated[list[FilePieces], Field(max_length=MOST_FILES)]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)


def pack_parts(parts: Parts, new: bytes) -> bytes:
    """As one blob."""
    return pack_folder({_DESCRIPTION: parts.model_dump_json().encode(), _BYTES: new})


class NewBytes:
    """The bytes that came along with parts, where they lie in a blob."""

    def __init__(self, blob: IO[bytes], span: Span) -> None:
        self._blob, self._span = blob, span

    def __len__(self) -> int:
        return self._span.end - self._span.start

    def pieces(self, start: int, length: int) -> Iterator[bytes]:
        """`length` of them from `start` on, in pieces. Raises UploadError if the blob has become shorter."""
        position, end = self._span.start + start, self._span.start + start + length
        while position < end:
            self._blob.seek(position)
            piece = self._blob.read(min(_READ_AT_ONCE, end - position))
            if not piece:
                raise UploadError("personalized model: its blob is shorter than it was")
            position += len(piece)
            yield piece


def read_parts(blob: IO[bytes]) -> tuple[Parts, NewBytes] | None:
    """What a blob is put together of, with the bytes that came along, in place; None for a model that travels whole.

    Raises UploadError for parts that no site of ours makes; nothing is read for them.
    """
    spans = file_spans(blob)
    if _DESCRIPTION not in spans:
        return None
    described = NewBytes(blob, spans[_DESCRIPTION])
    if len(described) > _MOST_DESCRIPTION_BYTES:
        raise UploadError(f"personalized model: {_DESCRIPTION} is longer than {_MOST_DESCRIPTION_BYTES} bytes")
    try:
        parts = Parts.model_validate_json(b"".join(described.pieces(0, len(described))))
    except (ValidationError, RecursionError) as error:
        raise UploadError(f"personalized model: {_DESCRIPTION} does not describe the parts of a model") from error
    new = NewBytes(blob, spans.get(_BYTES, Span(0, 0)))
    _check(parts, len(new))
    return parts, new


def join_parts(
    parts: Parts, new: NewBytes, read: Callable[[int, int, int], Iterator[bytes]]
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Path and content of each file, in pieces. `read` gives bytes of a base, by number from 0, first byte and length.

    The content raises UploadIncompleteError at its end if the file does not get its hash, as where a base is not what
    the site has.
    """
    for file in parts.files:
        yield file.path, _hashed(file, _pieces_of(file, new, read))


def _hashed(file: FilePieces, pieces: Iterator[bytes]) -> Iterator[bytes]:
    computed = sha256()
    for piece in pieces:
        computed.update(piece)
        yield piece
    if computed.hexdigest() != file.sha256:
        raise UploadIncompleteError(
            f"personalized model: {file.path!r} does not get its hash from the parts; send the model whole"
        )


def _pieces_of(file: FilePieces, new: NewBytes, read: Callable[[int, int, int], Iterator[bytes]]) -> Iterator[bytes]:
    for source, start, length in file.pieces:
        if source == NEW:
            yield from new.pieces(start, length)
        else:
            yield from read(source - 1, start, length)


def _check(parts: Parts, num_new: int) -> None:
    """Raise UploadError for paths, sources and lengths that do not fit each other."""
    paths: Sequence[str] = [checked_path(file.path) for file in parts.files]
    if len(set(paths)) < len(paths):
        raise UploadError("personalized model: a file is there twice")
    if sum(len(file.pieces) for file in parts.files) > MOST_PIECES:
        raise UploadError(f"personalized model: more than {MOST_PIECES} pieces")
    for file in parts.files:
        for source, start, length in file.pieces:
            if source > len(parts.bases) or not length or (source == NEW and start + length > num_new):
                raise UploadError(f"personalized model: {file.path!r} has a piece of nothing that is there")
        if sum(length for _, _, length in file.pieces) != file.size_bytes:
            raise UploadError(f"personalized model: the pieces of {file.path!r} do not have its length")
