"""A pulled model is of one version and holds what was announced, or nothing is written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fedafd.client.archives import extract_files
from fedafd.client.federation import FederationClient
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.process_errors import ControlPlaneError


class _Versions(ThreadingHTTPServer):
    """A control plane whose current version is another one at each look."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.current = 3
        self.asked: list[str] = []
        self.announced: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}
        self.archive: bytes | None = None
        """In place of an archive of what is sent."""


class _Handler(BaseHTTPRequestHandler):
    server: _Versions

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        part = self.path.removeprefix("/v1/federations/f/models/")
        version = str(self.server.current) if part.startswith("current") else part.partition("/")[0]
        self.server.current += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self._archive(version) if part.endswith("archive") else self._details(version))

    def _details(self, version: str) -> bytes:
        files = [
            {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
            for path, content in (self.server.announced | {"version": version.encode()}).items()
        ]
        return json.dumps({"version": int(version), "metrics": {}, "created_at": "", "files": files}).encode()

    def _archive(self, version: str) -> bytes:
        if self.server.archive is not None:
            return self.server.archive
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for path, data in (self.server.sent | {"version": version.encode()}).items():
                info = tarfile.TarInfo(path)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return content.getvalue()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def versions() -> Iterator[_Versions]:
    with _Versions() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def federation(versions: _Versions) -> Iterator[FederationClient]:
    client = FederationClient(f"http://127.0.0.1:{versions.server_port}", "key", "f")
    yield client
    client.close()


def test_a_version_that_is_published_meanwhile_changes_nothing(
    versions: _Versions, federation: FederationClient, tmp_path: Path
) -> None:
    versions.announced = versions.sent = {"config.json": b"{}", "deep/weights": b"w" * 3_000_000}
    pulled = federation.pull_global_model(tmp_path / "model")
    assert (pulled["version"], (tmp_path / "model" / "version").read_text()) == (3, "3")
    assert versions.asked == [f"/v1/federations/f/models/{part}" for part in ("current", "3/archive")]
    assert (tmp_path / "model" / "deep" / "weights").stat().st_size == 3_000_000


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_pulled_model_has_the_rights_that_its_owner_gives_new_files(
    versions: _Versions, federation: FederationClient, tmp_path: Path, mask: int
) -> None:
    versions.announced = versions.sent = {"config.json": b"{}", "deep/weights": b"w"}
    before = os.umask(mask)
    try:
        federation.pull_global_model(tmp_path / "model")
    finally:
        os.umask(before)
    rights = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model", *(tmp_path / "model").rglob("*"))}
    assert {rights[folder] for folder in ("model", "deep")} == {0o777 & ~mask}
    assert {rights[file] for file in ("config.json", "weights")} == {0o666 & ~mask}


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"a": b"other"}, "a: came with another content"),
        ({}, "a: was announced"),
        ({"a": b"x", "b": b""}, "b: came and"),
    ],
)
def test_what_came_otherwise_than_announced_is_not_kept(
    versions: _Versions, federation: FederationClient, tmp_path: Path, sent: dict[str, bytes], words: str
) -> None:
    versions.announced, versions.sent = {"a": b"x"}, sent
    with pytest.raises(ControlPlaneError, match=words):
        federation.pull_global_model(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def with_a_hole(size: int) -> bytes:
    """A tar of 2 kB whose one file has so many bytes, all of them of a hole (GNU's old format)."""
    info = tarfile.TarInfo("a")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def packed(content: bytes) -> bytes:
    """A gzipped tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        info = tarfile.TarInfo("a")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize(
    "archive",
    {
        "a hole of a terabyte": with_a_hole(1 << 40),
        "a packed archive": packed(b"x"),
        "no archive": b"nothing" * 1000,
        "nothing": b"",
        "more than announced": bytes(1 << 20),
    }.items(),
    ids=lambda item: item[0],
)
def test_an_archive_that_is_none_or_that_grows_is_refused_in_words_and_before_it_fills_the_disk(
    versions: _Versions, federation: FederationClient, tmp_path: Path, archive: tuple[str, bytes]
) -> None:
    versions.announced, versions.archive = {"a": b"x"}, archive[1]
    with pytest.raises((ControlPlaneError, DataError)):
        federation.pull_global_model(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("twice", ["a", "a/b"])
def test_a_file_twice_or_as_a_folder_is_refused_in_words(tmp_path: Path, twice: str) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name in ("a", twice):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    content.seek(0)
    with pytest.raises((ControlPlaneError, DataError)), tarfile.open(fileobj=content) as tar:
        extract_files(tar, tmp_path, {"a": 0, "a/b": 0})


def test_a_folder_that_holds_files_is_left_alone(federation: FederationClient, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ConfigurationError, match="not empty"):
        federation.pull_global_model(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]
