"""The answer to a query: its embedding, and what of the version's public set is nearest to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedafd.datasets.decoding import decode_image
from fedafd.datasets.pixels import READER_VERSION
from fedafd.distiller.public_sets import PublicSets
from fedafd.distiller.queries.indexes import Index, Indexes, Progress
from fedafd.distiller.queries.versions import Versions
from fedafd.domain.errors import DataError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import Modality
from fedafd.learning.loaded_model import LoadedModel
from fedafd.learning.search_index import nearest
from fedafd.messaging.query_messages import Query, QueryAnswer
from fedafd.storage import ObjectStore

__all__ = ["Answering"]


class Answering:
    """Answers with the versions and public sets of `store`; `cache` keeps shards and embeddings."""

    def __init__(
        self,
        store: ObjectStore,
        cache: Path,
        *,
        device: str,
        cache_limit_bytes: int,
        most_pictures: int,
        versions_held: int = 3,
    ) -> None:
        self._indexes = Indexes(cache / "embeddings", cache_limit_bytes)
        self._versions = Versions(
            store,
            cache / "versions",
            PublicSets(store, cache, limit_bytes=cache_limit_bytes),
            device=device,
            most=versions_held,
            most_pictures=most_pictures,
            is_busy=self._indexes.is_making,
        )
        self._most_pictures = most_pictures

    def answer(self, query: Query) -> QueryAnswer:
        """Hits, or how far the version is: loaded, then its embeddings made, beside the answers to other queries.

        Raises DataError for a picture or caption that cannot be read, errors of the object store, TooManyRequestsError.
        """
        # First, so that a picture that cannot be read is refused before anything is prepared.
        picture = None if query.picture is None else decode_image(query.picture, "the picture")
        version = self._versions.open(query.files, query.public_set_sha256)
        if version is None:
            return QueryAnswer(state="preparing", step="loading")
        gallery = version.gallery
        asked, modality = (query.caption, Modality.IMAGE) if picture is None else (picture, Modality.TEXT)
        row_D = _embedded(version.model, Modality.TEXT if picture is None else Modality.IMAGE, asked)
        searched: Sequence[Any] = gallery.pictures if modality is Modality.IMAGE else gallery.captions
        name = _name(version.key, query.public_set_sha256, self._most_pictures, modality)
        result = self._indexes.find(name, len(searched), _maker(version.model, modality, searched), owner=version.key)
        if isinstance(result, Progress):
            return QueryAnswer(
                state="preparing",
                step="embedding",
                done=result.done,
                total=result.total,
                num_pictures=gallery.num_pictures,
            )
        show = gallery.picture_hit if modality is Modality.IMAGE else gallery.caption_hit
        hits = nearest(row_D, [str(entry) for entry in result.entries], result.rows, query.top_k)
        return QueryAnswer(
            state="ready",
            hits=tuple(show(int(hit.name), hit.likeness) for hit in hits),
            num_searched=len(result.entries),
            num_pictures=gallery.num_pictures,
        )

    def close(self) -> None:
        """Stop what is being prepared."""
        self._indexes.close()
        self._versions.close()


def _embedded(model: LoadedModel, modality: Modality, sample: Any) -> NDArray[np.float32]:
    (embedded,) = model.each_embedded(modality, [sample])
    return embedded[1]


def _maker(model: LoadedModel, modality: Modality, searched: Sequence[Any]) -> Callable[[Callable[[], None]], Index]:
    def make(advance: Callable[[], None]) -> Index:
        entries, rows = [], []
        for entry, row in model.each_embedded(modality, searched, _leave_out):
            entries.append(entry)
            rows.append(row)
            advance()
        stacked = np.stack(rows) if rows else np.zeros((0, model.dim), dtype=np.float32)
        return Index(np.array(entries, dtype=np.int64), stacked)

    return make


def _leave_out(_: int, __: DataError) -> None:
    """A public picture that cannot be read is not found."""


def _name(version: str, public_set: str, most: int, modality: Modality) -> str:
    about = f"{version} {public_set} {most} {modality.value} {READER_VERSION}"
    return sha256_of(about.encode())
