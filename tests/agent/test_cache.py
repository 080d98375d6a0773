"""Downloads continue where they broke off, and nothing counts before its hash was checked."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.chunks import ChunkedFile
from fedafd.domain.errors import ArtifactCorruptError, DataError


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _put(cache: ArtifactCache, content: bytes) -> Path:
    part = cache.begin(_sha(content), len(content))
    part.append(content)
    return part.finish()


def test_finished_download_is_held_from_then_on(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "a", limit_bytes=100)
    assert cache.find(_sha(b"hello")) is None
    path = _put(cache, b"hello")
    assert path.read_bytes() == b"hello"
    assert cache.find(_sha(b"hello")) == path
    assert ArtifactCache(tmp_path / "a", limit_bytes=100).find(_sha(b"hello")) == path


def test_broken_off_download_continues_at_its_offset(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, limit_bytes=100)
    cache.begin(_sha(b"hello"), 5).append(b"hel")
    again = ArtifactCache(tmp_path, limit_bytes=100).begin(_sha(b"hello"), 5)
    assert again.offset_bytes == 3
    again.append(b"lo")
    assert again.complete
    assert again.finish().read_bytes() == b"hello"


def test_empty_artifact_is_an_artifact(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, limit_bytes=100)
    part = cache.begin(_sha(b""), 0)
    assert part.complete
    assert part.finish().read_bytes() == b""


def test_wrong_bytes_are_thrown_away(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, limit_bytes=100)
    part = cache.begin(_sha(b"hello"), 5)
    part.append(b"jello")
    with pytest.raises(ArtifactCorruptError, match="another hash"):
        part.finish()
    assert cache.begin(_sha(b"hello"), 5).offset_bytes == 0
    with pytest.raises(ArtifactCorruptError, match="more than the announced"):
        cache.begin(_sha(b"hello"), 5).append(b"hello!")


def test_file_that_rotted_on_disk_does_not_count(tmp_path: Path) -> None:
    path = _put(ArtifactCache(tmp_path, limit_bytes=100), b"hello")
    path.write_bytes(b"jello")
    assert ArtifactCache(tmp_path, limit_bytes=100).find(_sha(b"hello")) is None
    assert not path.exists()


def test_trimming_keeps_the_task_and_drops_the_oldest(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, limit_bytes=8)
    contents = [b"aaaa", b"bbbb", b"cccc", b"dddd"]
    for age, content in enumerate(contents):
        os.utime(_put(cache, content), (age, age))
    cache.begin(_sha(b"left over"), 9).append(b"left")
    assert cache.trim(keep={_sha(b"aaaa")}) == 8
    assert [cache.find(_sha(content)) is not None for content in contents] == [True, False, False, True]
    assert not list(tmp_path.glob("*.part"))


def test_chunks_cover_the_file_and_hash_right(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(content := bytes(range(256)) * 10)
    blob = ChunkedFile.of(path, chunk_bytes=1000)
    chunks = [blob.read(index) for index in range(len(blob.chunk_sha256))]
    assert b"".join(chunks) == content
    assert [_sha(chunk) for chunk in chunks] == list(blob.chunk_sha256)
    assert (blob.sha256, blob.size_bytes) == (_sha(content), 2560)
    with pytest.raises(DataError, match="has no chunk 3"):
        blob.read(3)
