"""An object store in a bucket of MinIO or anything else that speaks S3."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import urllib3
from minio import Minio
from minio.commonconfig import ComposeSource
from minio.datatypes import PostPolicy
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from fedafd.domain.errors import ArtifactNotFoundError, StorageError, StorageFullError, StorageUnavailableError
from fedafd.domain.hashing import sha256_of
from fedafd.storage.scratch import on_scratch
from fedafd.storage.store import CHUNK_BYTES, ObjectInfo, UploadForm, check_key

__all__ = ["S3Store"]

_MISSING = frozenset({"NoSuchKey", "NoSuchObject", "PreconditionFailed"})
"""Also as it was read before: that content is there no more."""
_MOST_READ = 4096
_FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "EntityTooLarge"})
_BUSY = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "XMinioServerNotInitialized",
    }
)


class S3Store:
    """Objects of one bucket, which must exist. S3 itself never shows a part of an object.

    One that arrives is a row of objects, since S3 lets nobody add to one; the service itself joins them at the end.
    """

    append_bytes = 5 << 20
    """S3 joins no smaller ones, but for the last."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str | None = None,
        secure: bool = True,
        timeout_seconds: float = 30.0,
    ) -> None:
        """`endpoint` is host:port. Connects on first use, not here."""
        pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=5.0, read=timeout_seconds),
            retries=urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=[502, 503, 504]),
            maxsize=16,
        )
        self.endpoint, self.bucket = endpoint, bucket
        self._read: OrderedDict[str, dict[str, str]] = OrderedDict()
        """ETags of the parts of arriving objects that were read, until they are finished."""
        self._url = f"{'https' if secure else 'http'}://{endpoint}"
        self._client = Minio(
            endpoint, access_key=access_key, secret_key=secret_key, region=region, secure=secure, http_client=pool
        )

    def put(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client.put_object(self.bucket, check_key(key), io.BytesIO(data), len(data))

    def put_file(self, key: str, path: Path) -> None:
        with self._errors(key):
            self._client.fput_object(self.bucket, check_key(key), str(path))

    def get(self, key: str) -> bytes:
        return b"".join(self.stream(key))

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        yield from self._pieces(key, offset, length)

    def _pieces(
        self, key: str, offset: int = 0, length: int | None = None, etags: dict[str, str] | None = None
    ) -> Iterator[bytes]:
        """As `stream`; what the service calls the content that comes stands in `etags` then."""
        with self._errors(key):
            try:
                # Of no bytes the service is asked nevertheless: an object that is not there is an error.
                response = self._client.get_object(self.bucket, check_key(key), offset=offset, length=length or 0)
            except S3Error as error:
                if error.code == "InvalidRange":  # at or past the end
                    return
                raise
            try:
                if etags is not None:
                    etags[key] = response.headers.get("ETag", "").strip('"')
                if length == 0:
                    return
                yield from response.stream(CHUNK_BYTES)
            finally:
                response.close()
                response.release_conn()

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors(key):
                return ObjectInfo(key, self._client.stat_object(self.bucket, check_key(key)).size or 0)
        except ArtifactNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors(prefix):
            for entry in self._client.list_objects(self.bucket, prefix=prefix, recursive=True):
                yield ObjectInfo(entry.object_name or "", entry.size or 0)

    def delete(self, key: str) -> None:
        with self._errors(key):
            self._client.remove_object(self.bucket, check_key(key))

    def arrived(self, key: str) -> int:
        return sum(part.size_bytes for part in self._parts(key))

    def append(self, key: str, offset: int, data: bytes) -> None:
        # A small object comes whole. Of others no two parts overlap: what lies beneath another is kept, and never read.
        if offset or len(data) >= self.append_bytes:
            arrived = self.arrived(key)
            if arrived >= offset + len(data):
                return
            if arrived != offset:
                lacking = f"no bytes before {offset}" if arrived < offset else f"{arrived} bytes, more than {offset}"
                raise ArtifactNotFoundError(f"object {key}: has {lacking}", key=key)
        self.put(f"{key}/{offset:015d}", data)

    def arrived_file(self, key: str, scratch: Path, /) -> Path:
        parts = self._parts_there(key)
        path = scratch / sha256_of(key.encode())
        etags: dict[str, str] = {}
        with on_scratch(scratch):
            scratch.mkdir(mode=0o700, exist_ok=True)
            with path.open("wb") as file:
                for part in parts:
                    for piece in self._pieces(part.key, etags=etags):
                        file.write(piece)
        self._read[key] = etags
        self._read.move_to_end(key)
        while len(self._read) > _MOST_READ:
            self._read.popitem(last=False)
        return path

    def finish(self, key: str, target: str) -> None:
        # The service copies from its own disk: no byte comes this way. A site has forms for the parts: what it sends
        # after they were read is not what was checked.
        read = self._read.pop(key, {})
        parts = self._parts_there(key)
        sources = [ComposeSource(self.bucket, part.key, match_etag=read.get(part.key)) for part in parts]
        with self._errors(target):
            self._client.compose_object(self.bucket, check_key(target), sources)

    def cut(self, key: str, size_bytes: int = 0) -> None:
        for part in [*self.list(f"{check_key(key)}/")]:
            if int(part.key.rpartition("/")[2]) + part.size_bytes > size_bytes:
                self.delete(part.key)

    def _parts_there(self, key: str) -> Sequence[ObjectInfo]:
        parts = self._parts(key)
        if not parts:
            raise ArtifactNotFoundError(f"object {key}: nothing has arrived", key=key)
        return parts

    def _parts(self, key: str) -> Sequence[ObjectInfo]:
        """Objects that together are the begin of the arriving one; each is named by where it begins."""
        parts, end = [], 0
        for part in self.list(f"{check_key(key)}/"):
            if int(part.key.rpartition("/")[2]) == end:
                parts.append(part)
                end += part.size_bytes
        return parts

    def presigned_get(self, key: str, lifetime: timedelta) -> str:
        """A URL that reads the object until `lifetime` is over, without a key of the store."""
        with self._errors(key):
            return self._client.presigned_get_object(self.bucket, check_key(key), expires=lifetime)

    def append_form(self, key: str, offset: int, length: int, lifetime: timedelta) -> UploadForm:
        """A form that does what `append` does for exactly `length` bytes, until `lifetime` is over."""
        name = f"{check_key(key)}/{offset:015d}"
        policy = PostPolicy(self.bucket, datetime.now(UTC) + lifetime)
        policy.add_equals_condition("key", name)
        policy.add_content_length_range_condition(length, length)
        with self._errors(name):
            fields = {"key": name, **self._client.presigned_post_policy(policy)}
        return UploadForm(f"{self._url}/{self.bucket}", fields, offset, length)

    def ping(self) -> None:
        with self._errors(""):
            if not self._client.bucket_exists(self.bucket):
                raise StorageError(f"bucket {self.bucket} at {self.endpoint}: does not exist; make it first")

    def make_bucket(self) -> None:
        """Make the bucket unless it is there already."""
        with self._errors(""):
            if not self._client.bucket_exists(self.bucket):
                self._client.make_bucket(self.bucket)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        where = f"{self.bucket}/{key} at {self.endpoint}"
        try:
            yield
        except S3Error as error:
            if error.code in _MISSING:
                raise ArtifactNotFoundError(f"object {key}: not in the store", key=key) from None
            if error.code in _FULL:
                raise StorageFullError(f"object store, {where}: no space left; free some", key=key) from error
            if error.code in _BUSY:
                raise StorageUnavailableError(f"object store, {where}: busy ({error.code})", key=key) from error
            raise StorageError(f"object store, {where}: refused with {error.code}: {error.message}", key=key) from error
        except (urllib3.exceptions.HTTPError, OSError, ServerError, InvalidResponseError) as error:
            # The last two are a proxy's or a starting server's, which speaks no S3.
            raise StorageUnavailableError(f"object store, {where}: cannot be reached: {error}", key=key) from error
        except (MinioException, ValueError) as error:
            raise StorageError(f"object store, {where}: {error}", key=key) from error
