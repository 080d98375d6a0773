"""Makes a bucket on a MinIO server and gives each process an access key that may do what the process does, no more.

What each process does with the store stands in docs/architecture.md; the policies say the same in S3's words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import urllib3
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, MinioException

from fedafd.artifacts.keys import FEDERATIONS, PUBLIC_SETS
from fedafd.domain.errors import ConfigurationError, StorageError, StorageUnavailableError

__all__ = ["PROCESSES", "access_key", "policy", "provision"]

_WRITE = ("s3:PutObject", "s3:AbortMultipartUpload")
_DELETE = ("s3:DeleteObject",)
_GRANTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "control-plane": {f"{PUBLIC_SETS}*": _WRITE + _DELETE},
    # A region's process has the aggregator's key, and keeps the upper federation's public set.
    "aggregator": {f"{FEDERATIONS}*": _WRITE + _DELETE, f"{PUBLIC_SETS}*": _WRITE},
    "distiller": {f"{FEDERATIONS}*": _WRITE},
    "queries": {},
}
_PAUSE_SECONDS = 0.5
"""Before a call is repeated; twice as long each time."""
PROCESSES = tuple(_GRANTS)
"""The processes that have an access key of their own. An agent has none."""


def access_key(process: str) -> str:
    """Name of the process's access key."""
    return f"fedafd-{process}"


def policy(process: str, bucket: str) -> dict[str, Any]:
    """What `process` may do in `bucket`: read all of it, write below the prefixes that are its own."""
    bucket_arn = f"arn:aws:s3:::{bucket}"
    statements = [
        {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": [bucket_arn]},
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"{bucket_arn}/*"]},
    ]
    for prefix, actions in _GRANTS[process].items():
        statements.append({"Effect": "Allow", "Action": list(actions), "Resource": [f"{bucket_arn}/{prefix}"]})
    return {"Version": "2012-10-17", "Statement": statements}


def provision(
    *, endpoint: str, bucket: str, root: tuple[str, str], secret_keys: Mapping[str, str], secure: bool
) -> list[str]:
    """Make the bucket, and an access key for each process in `secret_keys`; returns what was done, in words.

    `root` is the server's administrator: access key and secret key. Safe to repeat: keys and policies are set anew.
    Raises ConfigurationError for a process that is unknown or has a short key, StorageError where the server refuses.
    """
    _check(secret_keys)
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5.0, read=30.0), retries=urllib3.Retry(total=5, backoff_factor=_PAUSE_SECONDS)
    )
    done = []
    with _errors(endpoint):
        client = Minio(endpoint, access_key=root[0], secret_key=root[1], secure=secure, http_client=pool)
        if client.bucket_exists(bucket):
            done.append(f"bucket {bucket}: is there")
        else:
            client.make_bucket(bucket)
            done.append(f"bucket {bucket}: made")
        admin = MinioAdmin(endpoint=endpoint, credentials=StaticProvider(*root), secure=secure, http_client=pool)
        for process, secret in secret_keys.items():
            name = access_key(process)
            admin.policy_add(name, policy=policy(process, bucket))
            admin.user_add(name, secret)
            admin.policy_set(name, user=name)
            done.append(f"access key {name}: set")
    return done


def _check(secret_keys: Mapping[str, str]) -> None:
    unknown = _listed(set(secret_keys) - set(PROCESSES))
    if unknown:
        raise ConfigurationError(f"store: no process has the name {unknown}; known: {_listed(PROCESSES)}")
    short = _listed(process for process, secret in secret_keys.items() if len(secret) < 16)
    if short:
        raise ConfigurationError(f"store: the secret key of {short} is shorter than 16 characters")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


@contextmanager
def _errors(endpoint: str) -> Iterator[None]:
    try:
        yield
    except (MinioAdminException, MinioException) as error:
        raise StorageError(f"object store at {endpoint}: refused: {error}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise StorageUnavailableError(f"object store at {endpoint}: cannot be reached: {error}") from error
