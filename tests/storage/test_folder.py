"""A folder as the store, whose share goes away in the middle of a write: it is not made anew in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedafd.domain.errors import StorageUnavailableError
from fedafd.storage.folder import FolderStore


def _put(store: FolderStore) -> None:
    store.put("federations/a/b", b"content")


def _append(store: FolderStore) -> None:
    store.append("federations/a/b", 0, b"content")


def _finish(store: FolderStore) -> None:
    store.finish("incoming", "federations/a/b")


@pytest.mark.parametrize(
    ("write", "owner", "last"),
    [
        (_put, os, "fsync"),
        (_append, FolderStore, "_check_there"),
        (_finish, os, "link"),
    ],
    ids=["put", "append", "finish"],
)
def test_a_share_that_goes_away_during_a_write_is_not_made_anew(
    write: Callable[[FolderStore], None], owner: Any, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`last` is what is called before the folder of the object is made."""
    store = FolderStore(tmp_path / "store")
    store.append("incoming", 0, b"content")
    done = getattr(owner, last)

    def and_away(*arguments: Any) -> Any:
        result = done(*arguments)
        if store.root.is_dir():
            store.root.rename(tmp_path / "unmounted")
        return result

    monkeypatch.setattr(owner, last, and_away)
    with pytest.raises(StorageUnavailableError):
        write(store)
    assert not store.root.exists()
    (tmp_path / "unmounted").rename(store.root)
    monkeypatch.undo()
    write(store)
    assert store.get("federations/a/b") == b"content"
