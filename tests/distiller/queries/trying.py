"""A version and its public set in a folder store, and queries to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.learning.tiny import tiny_global, tiny_public, write_files

from fedafd.datasets import write_public_set
from fedafd.distiller.queries.answering import Answering
from fedafd.domain.hashing import sha256_of
from fedafd.messaging.query_messages import Query, QueryAnswer, QueryFile
from fedafd.storage.folder import FolderStore

MODEL = "federations/trial/models/1/"


class Trying:
    """`model` and `public` are folders of the same on this machine."""

    def __init__(self, folder: Path) -> None:
        self.model, self.public, self.cache = folder / "model", folder / "public", folder / "cache"
        self.store = FolderStore(folder / "store")
        files = tiny_global()
        write_files(files, self.model)
        for path, content in files.items():
            self.store.put(f"{MODEL}{path}", content)
        self.files = tuple(
            QueryFile(path=path, key=f"{MODEL}{path}", sha256=sha256_of(content)) for path, content in files.items()
        )
        manifest = write_public_set(tiny_public(), self.public, rows_per_shard=16)
        self.public_set_sha256 = manifest.sha256
        for name in ("manifest.json", *(shard.name for shard in manifest.shards)):
            self.store.put_file(f"public-sets/{manifest.sha256}/{name}", self.public / name)

    def query(self, **given: Any) -> Query:
        values = {"files": self.files, "public_set_sha256": self.public_set_sha256, "top_k": 4}
        return Query(**(values | given))

    def answering(self, most_pictures: int = 1000, limit_bytes: int = 10**8) -> Answering:
        return Answering(
            self.store, self.cache, device="cpu", cache_limit_bytes=limit_bytes, most_pictures=most_pictures
        )


def ready(answering: Answering, query: Query) -> QueryAnswer:
    """The answer once there is one; the first may say that it is being prepared."""
    while (answer := answering.answer(query)).state == "preparing":
        assert answer.done <= answer.total
    return answer
