"""A store that is full is told from one that is well, and asked seldom."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.full_disk import full_disk

from fedafd.artifacts.keys import FEDERATIONS
from fedafd.domain.errors import StorageFullError
from fedafd.storage import WriteProbe
from fedafd.storage.folder import FolderStore


def test_a_full_store_is_told_and_is_well_once_there_is_space(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    probe = WriteProbe(store, below=FEDERATIONS, seconds=0)
    probe.check()
    with full_disk(tmp_path / ".incoming"), pytest.raises(StorageFullError, match="refuses writes: .*no space left"):
        probe.check()
    probe.check()
    assert list(store.list("")) == []


def test_between_two_looks_the_last_answer_holds(tmp_path: Path) -> None:
    probe = WriteProbe(FolderStore(tmp_path), below=FEDERATIONS, seconds=3600)
    with full_disk(tmp_path / ".incoming"), pytest.raises(StorageFullError):
        probe.check()
    with pytest.raises(StorageFullError):
        probe.check()
