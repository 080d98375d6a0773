"""A pulled model is of one version and holds what was announced, or nothing is written."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fedafd.client.federation import FederationClient
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.process_errors import ControlPlaneError


class _Versions(ThreadingHTTPServer):
    """A control plane whose current version is another one at each look."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.current = 3
        self.asked: list[str] = []
        self.announced: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}


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


def test_a_folder_that_holds_files_is_left_alone(federation: FederationClient, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ConfigurationError, match="not empty"):
        federation.pull_global_model(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]
