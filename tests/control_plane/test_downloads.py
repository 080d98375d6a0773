"""Downloads keep no copy on the disk whatever is asked, answer ranges as documented, and send nothing damaged."""

from __future__ import annotations

import asyncio
import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import StreamingResponse
from tests.control_plane.rest import Rest, problem

from fedafd.control_plane.models.checked import BLOCK_BYTES, CheckedObjects
from fedafd.control_plane.models.downloads import archive_response, file_response
from fedafd.domain.errors import ArtifactCorruptError, RangeNotSatisfiableError
from fedafd.domain.hashing import sha256_of
from fedafd.persistence.models import ModelFileRow
from fedafd.storage.folder import FolderStore

ARCHIVE = "/federations/trial/models/1/archive"
FILE = "/federations/trial/models/1/files/weights/model.safetensors"
CONTENT = b"global-1" * 1000
UNUSABLE = [
    "bytes=9000000-",
    "bytes=-0",
    "bytes=8000-7000",
    "bytes=a-b",
    "bytes=-",
    "bytes=",
    "bytes",
    "bytes 0-1",
    f"bytes={'9' * 3900}-",
]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _left(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.mark.parametrize("asked", UNUSABLE, ids=[text[:20] for text in UNUSABLE])
async def test_a_range_that_is_none_is_a_416_and_leaves_nothing_behind(rest: Rest, temporary: Path, asked: str) -> None:
    await rest.federation()
    await rest.publish(1)
    viewer = await rest.key("board", "viewer")
    for path in (ARCHIVE, FILE):
        answer = await rest.http.get(path, headers=viewer | {"Range": asked})
        assert "bytes=<first>-<last>" in problem(answer, 416, "range-not-satisfiable")
        assert answer.headers["content-range"].startswith("bytes */")
    assert not _left(temporary)


async def test_nothing_that_may_be_asked_for_leaves_a_copy(rest: Rest, temporary: Path) -> None:
    await rest.federation()
    await rest.publish(1)
    for asked in ("bytes=0-0", "bytes=0-1,5-6", "bytes=-5", "lines=1-2", "bytes=0-999999999999"):
        for path in (ARCHIVE, FILE):
            assert (await rest.http.get(path, headers={"Range": asked})).status_code in (200, 206)
    assert not _left(temporary)


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=8-15", 206, CONTENT[8:16]),
        ("bytes=7992-", 206, CONTENT[7992:]),
        ("bytes=-4", 206, CONTENT[-4:]),
        ("bytes=-9000", 206, CONTENT),
        ("Bytes = 0-0", 206, CONTENT[:1]),
        (f"bytes=0-{'9' * 3900}", 206, CONTENT),
        ("bytes=0-1,4-5", 200, CONTENT),
        ("lines=1-2", 200, CONTENT),
    ],
)
async def test_a_range_is_answered_with_its_bytes_or_the_whole(
    rest: Rest, asked: str, status: int, expected: bytes
) -> None:
    await rest.federation()
    await rest.publish(1)
    answer = await rest.http.get(FILE, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, expected)
    assert int(answer.headers["content-length"]) == len(expected)


async def test_a_range_of_what_has_changed_is_answered_with_the_whole(rest: Rest) -> None:
    await rest.federation()
    await rest.publish(1)
    tag = (await rest.http.get(FILE)).headers["etag"]
    for given_tag, status in ((tag, 206), ('"another"', 200)):
        answer = await rest.http.get(FILE, headers={"Range": "bytes=0-3", "If-Range": given_tag})
        assert answer.status_code == status


def _request(**headers: str) -> Request:
    return Request({"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]})


def _rows(store: FolderStore, contents: dict[str, bytes]) -> list[ModelFileRow]:
    for content in contents.values():
        store.put(f"models/{sha256_of(content)}", content)
    return [
        ModelFileRow(path=path, sha256=sha256_of(content), size_bytes=len(content), key=f"models/{sha256_of(content)}")
        for path, content in contents.items()
    ]


async def _read(response: StreamingResponse) -> bytes:
    """What arrives. Raises as the connection would break, unless all of it had arrived before."""
    found = bytearray()
    try:
        async for block in response.body_iterator:
            found += block  # type: ignore[arg-type]
    except ArtifactCorruptError:
        assert len(found) < int(response.headers["content-length"])
        raise
    return bytes(found)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\"), min_size=1, max_size=150)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.dictionaries(names, st.binary(max_size=2000), min_size=1, max_size=4), data=st.data())
async def test_each_part_of_an_archive_is_that_part_of_the_whole(
    tmp_path: Path, contents: dict[str, bytes], data: st.DataObject
) -> None:
    store = FolderStore(tmp_path)
    rows = _rows(store, contents)
    objects = CheckedObjects(store)
    answer = await archive_response(_request(), objects, rows, "model")
    whole = await _read(answer)
    assert int(answer.headers["content-length"]) == len(whole)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
    assert found == {name.rstrip("/"): content for name, content in contents.items()}
    first = data.draw(st.integers(0, len(whole) - 1))
    last = data.draw(st.integers(first, len(whole)))
    part = await archive_response(_request(range=f"bytes={first}-{last}"), objects, rows, "model")
    assert await _read(part) == whole[first : last + 1]


async def test_what_is_damaged_after_the_check_does_not_arrive_whole(tmp_path: Path) -> None:
    store, content = FolderStore(tmp_path), bytes(3 << 20)
    rows = _rows(store, {"model.safetensors": content})
    answer = await file_response(_request(), CheckedObjects(store), rows, "model.safetensors")
    store.put(rows[0].key, b"\1" + content[1:])
    with pytest.raises(ArtifactCorruptError, match="backup"):
        await _read(answer)


async def test_an_empty_file_is_answered_and_has_no_part(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    rows = _rows(store, {"empty.txt": b""})
    assert await _read(await file_response(_request(), CheckedObjects(store), rows, "empty.txt")) == b""
    with pytest.raises(RangeNotSatisfiableError):
        await file_response(_request(range="bytes=0-"), CheckedObjects(store), rows, "empty.txt")


class _Counting(FolderStore):
    """Counts the bytes that are read."""

    read_bytes = 0

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        for piece in super().stream(key, offset, length):
            self.read_bytes += len(piece)
            yield piece


async def test_a_byte_of_a_large_model_asked_for_again_costs_no_reading_of_all_of_it(tmp_path: Path) -> None:
    """Each such request read and hashed the whole object: one viewer held a core for each of its threads."""
    store, content = _Counting(tmp_path), bytes(range(256)) * (64 << 12)
    rows, objects = _rows(store, {"model.safetensors": content}), CheckedObjects(store)
    size, last = len(content), len(content) - 1

    async def asked(text: str) -> bytes:
        return await _read(await file_response(_request(range=text), objects, rows, "model.safetensors"))

    # At once, as the first ones come: the whole is compared for all of them together.
    assert await asyncio.gather(*(asked(f"bytes={last}-") for _ in range(8))) == [b"\xff"] * 8
    assert store.read_bytes <= size + 16 * BLOCK_BYTES
    store.read_bytes = 0
    for number in range(20):
        assert await asked(f"bytes={number}-{number}") == bytes([number])
    assert await asked(f"bytes={BLOCK_BYTES - 1}-{BLOCK_BYTES}") == b"\xff\0"
    assert store.read_bytes <= (20 + 2) * 2 * BLOCK_BYTES


async def test_who_asks_for_all_of_a_known_model_and_hangs_up_costs_its_beginning(tmp_path: Path) -> None:
    store, content = _Counting(tmp_path), bytes(64 << 20)
    rows, objects = _rows(store, {"model.safetensors": content}), CheckedObjects(store)
    assert await _read(await file_response(_request(), objects, rows, "model.safetensors")) == content
    store.read_bytes = 0
    for _ in range(3):
        await file_response(_request(), objects, rows, "model.safetensors")
    assert store.read_bytes <= 3 * 17 * BLOCK_BYTES


@pytest.mark.parametrize("damage", ["changed", "cut off"])
@pytest.mark.parametrize("asked", ["bytes=2097152-2097160", "bytes=20971520-", None])
async def test_a_known_model_that_is_damaged_later_sends_no_damaged_byte(
    tmp_path: Path, damage: str, asked: str | None
) -> None:
    store, content = FolderStore(tmp_path), bytes(24 << 20)
    rows, objects = _rows(store, {"model.safetensors": content}), CheckedObjects(store)
    headers = {} if asked is None else {"range": asked}
    whole = await _read(await file_response(_request(**headers), objects, rows, "model.safetensors"))
    position = 20 << 20 if asked is None else int(asked.removeprefix("bytes=").split("-")[0])
    store.put(rows[0].key, content[:position] + (b"\1" + content[position + 1 :] if damage == "changed" else b""))
    found = bytearray()

    async def received() -> None:
        answer = await file_response(_request(**headers), objects, rows, "model.safetensors")
        async for block in answer.body_iterator:
            found.extend(block)  # type: ignore[arg-type]

    with pytest.raises(ArtifactCorruptError, match="backup"):
        await received()
    assert bytes(found) == whole[: len(found)] and len(found) < len(whole)
