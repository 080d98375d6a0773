"""Database, broker, object store and identity provider, used as the processes use them: written to and read."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedafd.artifacts.keys import FEDERATIONS, PUBLIC_SETS
from fedafd.cli.doctor.findings import Finding, bad, fine, look
from fedafd.domain.errors import ConfigurationError, DatabaseUnavailableError, FedafdError, StorageError

if TYPE_CHECKING:
    from fedafd.control_plane.oidc.settings import OidcSettings
    from fedafd.storage import ObjectStore

__all__ = ["look_at_broker", "look_at_database", "look_at_provider", "look_at_queries", "look_at_store"]

_SECONDS = 10.0
_MOST_SKEW_SECONDS = 2.0
_BYTES = 1 << 20
_BELOW = {"control-plane": PUBLIC_SETS, "aggregator": FEDERATIONS, "distiller": FEDERATIONS}
"""Where each process's access key may write (fedafd.storage.provision); the query worker's writes nowhere."""


def look_at_database(url: str) -> Iterator[Finding]:
    """Whether it answers, at which revision it is, whether it takes writes, and what time it has."""
    from fedafd.persistence.database import driver_url, shown_url
    from fedafd.persistence.migrate import current_revision, head_revision

    try:
        parsed = driver_url(url)
        shown, is_sqlite = shown_url(parsed), parsed.get_backend_name() == "sqlite"
        if is_sqlite and not Path(parsed.database or "").exists():
            yield bad("database", f"{shown}: there is no such file yet", "make it: `fedafd migrate`")
            return
        revision = current_revision(url)
    except DatabaseUnavailableError as error:
        yield bad("database", str(error), "start it, or correct DATABASE_URL: host, port, name, user and password")
        return
    except FedafdError as error:
        yield bad("database", str(error), "correct DATABASE_URL")
        return
    if revision != head_revision():
        words = f"at revision {revision or 'none'}, this program needs {head_revision()}"
        yield bad("migrations", words, "run `fedafd migrate`; for a revision unknown here, install the newer fedafd")
        return
    yield fine("migrations", f"at revision {revision}, as this program needs")
    yield from asyncio.run(_used(url, shown))


async def _used(url: str, shown: str) -> list[Finding]:
    """Write a row and take it back, and compare clocks."""
    from fedafd.persistence.clock import shared_clock
    from fedafd.persistence.database import Database
    from fedafd.persistence.write_check import check_writes

    database = Database(url)
    try:
        async with asyncio.timeout(_SECONDS):
            await check_writes(database)
            await database.ping()
    except (FedafdError, TimeoutError) as error:
        words = f"{shown}: takes no writes: {error or f'no answer within {_SECONDS:g} s'}"
        return [bad("database", words, "see that it is no standby, its disk has space, and the user may write")]
    finally:
        await database.close()
    skew, shared_ = shared_clock.skew_seconds, fine("database", f"{shown}: answers and takes writes")
    shared_clock.forget()
    if database.is_sqlite:
        return [shared_]
    if abs(skew) <= _MOST_SKEW_SECONDS:
        return [shared_, fine("clock", f"{abs(skew):.1f} s from the database's")]
    side = "ahead of" if skew > 0 else "behind"
    return [shared_, look("clock", f"{abs(skew):.0f} s {side} the database's", "set both by NTP")]


def look_at_broker(url: str) -> Iterator[Finding]:
    """Whether Redis takes and gives back a message, and what it does when its memory is full."""
    import redis
    from redis.exceptions import RedisError

    from fedafd.messaging.broker_queue import QUEUE

    shown = url.rpartition("@")[2].removeprefix("redis://")
    key = f"fedafd:doctor:{uuid.uuid4().hex}"
    # Its stubs say that each answer may be one to wait for.
    client: Any = redis.Redis.from_url(url, socket_connect_timeout=_SECONDS, socket_timeout=_SECONDS)
    try:
        client.lpush(key, b"message")
        came = client.rpop(key)
        waiting = int(client.llen(QUEUE))
    except (RedisError, OSError) as error:
        yield bad("broker", f"Redis at {shown}: {error}", "start it, or correct REDIS_URL: host, port and password")
        return
    if came != b"message":
        yield bad("broker", f"Redis at {shown}: gives back another message than it took", "look at its log")
        return
    yield fine("broker", f"Redis at {shown}: takes and gives messages; {waiting} wait for a distiller")
    with suppress(RedisError, OSError):  # a managed Redis may not tell
        policy = dict(client.config_get("maxmemory-policy")).get("maxmemory-policy", "noeviction")
        if policy not in ("noeviction", b"noeviction"):
            words = f"Redis at {shown}: drops keys when its memory is full (maxmemory-policy {policy})"
            yield look("broker", words, "set maxmemory-policy noeviction: a dropped message delays a round")


def look_at_queries(url: str, *, is_set_up: bool) -> Iterator[Finding]:
    """Whether a query worker is there, with which people try versions; a deployment may do without one."""
    from fedafd.messaging.queries import QueryTaker

    try:
        is_there = QueryTaker(url).is_anybody_here()
    except StorageError:
        return  # told of the broker
    if is_there:
        yield fine("queries", "a query worker is running: versions can be tried")
    elif is_set_up:
        words = "no query worker is running, although one is set up here: nobody can try a version"
        yield look("queries", words, "start it: `fedafd queries`")
    else:
        yield fine("queries", "no query worker is running; only who tries a version needs one: `fedafd queries`")


def look_at_provider(settings: OidcSettings) -> Finding:
    """Whether the identity provider tells of itself and of its keys."""
    from fedafd.control_plane.oidc.provider import Provider

    try:
        asyncio.run(Provider(settings).metadata())
    except FedafdError as error:
        remedy = "correct CONTROL_PLANE_OIDC__ISSUER or CA_FILE, or see that this machine reaches the provider"
        return bad("identity provider", str(error), remedy)
    return fine("identity provider", f"{settings.issuer}: tells of itself and of its keys")


def look_at_store(process: str, settings: Any) -> Finding:
    """Whether a process can write an object and read the same bytes again."""
    from fedafd.storage import open_store

    where = settings.url + (f" at {settings.endpoint}" if settings.endpoint else "")
    folder = Path(settings.url.removeprefix("file://"))
    if not settings.url.startswith("s3://") and not folder.is_dir():
        return bad("store", f"{where}: no such folder", "mount or make it, and give it to the processes' user")
    try:
        store = open_store(settings)
        store.ping()
        if process not in _BELOW:
            return fine("store", f"{process}, {where}: answers; this process only reads")
        key, content = f"{_BELOW[process]}write-probe/doctor-{process}", os.urandom(_BYTES)
        same = _written_and_read(store, key, content)
    except ConfigurationError as error:
        return bad("store", f"{process}: {error}", "set what is missing")
    except StorageError as error:
        remedy = "see that it runs, answers and has space, and that the access key may write"
        return bad("store", f"{process}, {where}: {error}", remedy)
    if not same:
        return bad("store", f"{process}, {where}: gives back other bytes than it took", "check its disks")
    return fine("store", f"{process}, {where}: {_BYTES >> 20} MiB written and read again")


def _written_and_read(store: ObjectStore, key: str, content: bytes) -> bool:
    store.put(key, content)
    same = store.get(key) == content
    with suppress(StorageError):  # a distiller's access key may not remove; the next look writes over it
        store.delete(key)
    return same
