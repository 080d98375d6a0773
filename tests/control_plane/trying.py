"""A federation with versions of a real tiny model, and a query worker in a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from tests.control_plane.rest import Rest
from tests.learning.tiny import tiny_global

from fedafd.distiller.queries.answering import Answering
from fedafd.distiller.queries.worker import QueryMetrics, serve
from fedafd.storage.folder import FolderStore


def own_database(redis_url: str, number: int) -> str:
    """A database of Redis that nobody else uses, empty."""
    url = f"{redis_url.removesuffix('/0')}/{number}"
    redis.Redis.from_url(url).flushdb()
    return url


async def publish_models(rest: Rest, folder: Path, count: int = 2) -> None:
    """A public set of 16 shapes, and versions of a model that has learned nothing."""
    await rest.federation()
    await rest.public_set(folder)
    public_set = (await rest.http.get("/federations/trial/public-set")).json()["sha256"]
    await rest.publish(count, public_set, tiny_global())


@contextmanager
def query_worker(redis_url: str, folder: Path) -> Iterator[None]:
    """The store is `folder`/store."""
    answering = Answering(
        FolderStore(folder / "store"), folder / "cache", device="cpu", cache_limit_bytes=10**8, most_pictures=100
    )
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(redis_url, answering, stop, QueryMetrics()))
    thread.start()
    client = redis.Redis.from_url(redis_url)
    while not client.exists("fedafd:query-workers"):
        assert thread.is_alive()
    yield
    stop.set()
    thread.join()
    answering.close()
