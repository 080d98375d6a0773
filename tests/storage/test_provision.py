"""Access keys on a real MinIO: each process may do what it does, and nothing else."""

from __future__ import annotations

import uuid
from functools import partial

import pytest
from tests.servers import Minio

from fedafd.aggregator import context as aggregator
from fedafd.control_plane import context as control_plane
from fedafd.domain.errors import ConfigurationError, StorageError, StorageUnavailableError
from fedafd.storage import WriteProbe
from fedafd.storage.provision import PROCESSES, access_key, provision
from fedafd.storage.s3 import S3Store

SECRETS = {process: f"secret-key-of-{process}" for process in PROCESSES}


@pytest.fixture
def bucket(minio: Minio) -> str:
    name = f"b{uuid.uuid4().hex}"
    _provision(minio, name)
    return name


def _provision(minio: Minio, bucket: str, secrets: dict[str, str] = SECRETS) -> list[str]:
    root = (minio.access_key, minio.secret_key)
    return provision(endpoint=minio.endpoint, bucket=bucket, root=root, secret_keys=secrets, secure=False)


def _store(minio: Minio, bucket: str, process: str, secret: str | None = None) -> S3Store:
    secret_key = secret or SECRETS[process]
    return S3Store(
        endpoint=minio.endpoint, bucket=bucket, secure=False, access_key=access_key(process), secret_key=secret_key
    )


MAY = {
    "control-plane": {"put public-sets/a", "delete public-sets/a"},
    "aggregator": {"put federations/a", "delete federations/a", "put public-sets/a"},
    "distiller": {"put federations/a"},
    "queries": set(),
}


@pytest.mark.parametrize("process", PROCESSES)
def test_a_key_reads_everything_and_writes_what_its_process_writes(minio: Minio, bucket: str, process: str) -> None:
    root = S3Store(
        endpoint=minio.endpoint, bucket=bucket, secure=False, access_key=minio.access_key, secret_key=minio.secret_key
    )
    for key in ("public-sets/a", "federations/a", "else/a"):
        root.put(key, b"there")
    store = _store(minio, bucket, process)
    store.ping()
    assert {store.get(found.key) for found in store.list("")} == {b"there"}
    assert store.stat("federations/absent") is None
    done, refused = set(), []
    for key in ("public-sets/a", "federations/a", "else/a"):
        for name, act in (("put", partial(store.put, key, b"x")), ("delete", partial(store.delete, key))):
            try:
                act()
                done.add(f"{name} {key}")
            except StorageError as error:
                refused.append(str(error))
    assert done == MAY[process]
    assert all("AccessDenied" in message for message in refused)


@pytest.mark.parametrize(
    ("process", "below"), [("control-plane", control_plane.WRITES_BELOW), ("aggregator", aggregator.WRITES_BELOW)]
)
def test_a_process_may_write_where_it_asks_whether_the_store_takes_writes(
    minio: Minio, bucket: str, process: str, below: str
) -> None:
    store = _store(minio, bucket, process)
    WriteProbe(store, below=below).check()
    assert list(store.list("")) == []


def test_the_aggregators_key_takes_an_upload_from_its_first_piece_to_its_end(minio: Minio, bucket: str) -> None:
    store = _store(minio, bucket, "aggregator")
    content = bytes(range(256)) * (1 << 15)
    store.append("federations/coming", 0, content[: 5 << 20])
    store.append("federations/coming", 5 << 20, content[5 << 20 :])
    store.finish("federations/coming", "federations/there")
    store.cut("federations/coming")
    assert [found.key for found in store.list("")] == ["federations/there"]
    assert store.get("federations/there") == content


def test_a_key_reaches_no_other_bucket(minio: Minio, bucket: str) -> None:
    S3Store(
        endpoint=minio.endpoint,
        bucket="not-ours",
        secure=False,
        access_key=minio.access_key,
        secret_key=minio.secret_key,
    ).make_bucket()
    with pytest.raises(StorageError, match="AccessDenied"):
        _store(minio, "not-ours", "aggregator").get("anything")


def test_repeating_changes_nothing_but_a_key_that_changed(minio: Minio, bucket: str) -> None:
    _store(minio, bucket, "aggregator").put("federations/kept", b"kept")
    assert f"bucket {bucket}: is there" in _provision(minio, bucket, SECRETS | {"aggregator": "another-secret-key"})
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        _store(minio, bucket, "aggregator").get("federations/kept")
    assert _store(minio, bucket, "aggregator", "another-secret-key").get("federations/kept") == b"kept"
    assert _store(minio, bucket, "distiller").get("federations/kept") == b"kept"


def test_a_wrong_administrator_is_refused_with_the_servers_word(minio: Minio) -> None:
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        provision(
            endpoint=minio.endpoint, bucket="x" * 5, root=(minio.access_key, "wrong"), secret_keys={}, secure=False
        )


def test_a_server_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedafd.storage.provision._PAUSE_SECONDS", 0.01)
    with pytest.raises(StorageUnavailableError, match=r"127\.0\.0\.1:1: cannot be reached"):
        provision(endpoint="127.0.0.1:1", bucket="bucket", root=("a", "b"), secret_keys={}, secure=False)


@pytest.mark.parametrize(
    ("secrets", "message"), [({"agent": "x" * 20}, "no process has the name agent"), ({"distiller": "short"}, "short")]
)
def test_unknown_processes_and_short_keys_are_refused(secrets: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        provision(endpoint="127.0.0.1:1", bucket="bucket", root=("a", "b"), secret_keys=secrets, secure=False)
