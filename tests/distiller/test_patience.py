"""A distiller outlasts a store that is away or full, and stops as soon as it is told to."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fedafd.datasets import load_public_data, write_public_set
from fedafd.distiller import public_sets
from fedafd.distiller.patience import Patience, is_outage
from fedafd.distiller.public_sets import PublicSets
from fedafd.domain.errors import ArtifactNotFoundError, StageLostError, StorageFullError, StorageUnavailableError
from fedafd.domain.whole_files import write_whole
from fedafd.learning.images import image_pixels
from fedafd.storage.folder import FolderStore


def test_a_share_that_is_unmounted_for_a_while_is_waited_for_and_named_meanwhile(tmp_path: Path) -> None:
    store, away = FolderStore(tmp_path / "store"), tmp_path / "away"
    store.put("a/b", b"content")
    store.root.rename(away)
    threading.Timer(0.5, lambda: away.rename(store.root)).start()
    heard: list[str] = []
    patience = Patience(first_seconds=0.1)
    with patience.telling(heard.append):
        assert patience.through(lambda: store.get("a/b")) == b"content"
    assert set(heard) == {"waiting for the store"}


def test_writing_waits_too_and_nothing_is_made_where_the_share_was(tmp_path: Path) -> None:
    store, away = FolderStore(tmp_path / "store"), tmp_path / "away"
    store.root.rename(away)
    with pytest.raises(StorageUnavailableError):
        store.put("a/b", b"content")
    assert not store.root.exists()
    threading.Timer(0.5, lambda: away.rename(store.root)).start()
    Patience(first_seconds=0.1).through(lambda: store.put("a/b", b"content"))
    assert store.get("a/b") == b"content"


def test_what_is_missing_in_a_store_that_is_there_is_no_outage(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with pytest.raises(ArtifactNotFoundError) as raised:
        Patience().through(lambda: store.get("a/b"))
    assert not is_outage(raised.value)


def test_waiting_ends_when_the_stage_is_lost(tmp_path: Path) -> None:
    def lost(_: str) -> None:
        raise StageLostError("cancelled")

    def full() -> None:
        raise StorageFullError("full")

    patience = Patience()
    started = time.monotonic()
    with patience.telling(lost), pytest.raises(StageLostError):
        patience.through(full)
    assert time.monotonic() - started < 1


def test_an_outage_that_does_not_end_is_told_as_such() -> None:
    def away() -> None:
        raise StorageUnavailableError("refused")

    with pytest.raises(StorageUnavailableError) as raised:
        Patience(first_seconds=0.01, give_up_seconds=0.1).through(away)
    assert is_outage(raised.value)


def test_what_is_computed_waits_longer_than_a_try_does() -> None:
    answers = iter([StorageUnavailableError("refused")] * 4)

    def away_for_a_while() -> str:
        for error in answers:
            raise error
        return "stored"

    patience = Patience(first_seconds=0.02, give_up_seconds=0.05)
    assert patience.through(away_for_a_while, at_least_seconds=60) == "stored"


def test_a_full_cache_disk_is_said_in_words_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path / "store")
    sizes = {"num_train": 6, "num_val": 1, "num_test": 2}
    manifest = write_public_set(load_public_data("shapes", None, sizes), tmp_path / "set")
    for name in ("manifest.json", *(shard.name for shard in manifest.shards)):
        store.put_file(f"public-sets/{manifest.sha256}/{name}", tmp_path / "set" / name)
    heard: list[str] = []

    def on_a_full_disk(path: Path, data: bytes) -> None:
        if not heard:
            with Path("/dev/full").open("wb", buffering=0) as device:
                device.write(data)
        write_whole(path, data)

    monkeypatch.setattr(public_sets, "write_whole", on_a_full_disk)
    impatient = PublicSets(store, tmp_path / "cache", limit_bytes=10**8)
    with pytest.raises(StorageFullError, match=r"the distiller's cache .*shards: no space left; free some"):
        impatient.open(manifest.sha256).split("train").images[0]
    patience = Patience(first_seconds=0.05)
    patient = PublicSets(store, tmp_path / "cache", limit_bytes=10**8, patience=patience)
    with patience.telling(heard.append):
        assert len(image_pixels(patient.open(manifest.sha256).split("train").images, 16)) == 6
    assert heard[0] == "waiting for space in the store"
