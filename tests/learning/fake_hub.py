"""A model hub on this machine, for tests: repositories of folders by id and revision, and a list of what was asked."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_OF_THE_LIBRARY = "/api/agent-harnesses"
"""huggingface_hub asks every hub for it; it names no repository."""
_ABOUT = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/(?:revision|tree)/(?P<revision>[^/?]+))?(?:[/?].*)?")


class FakeHub:
    """`repositories`: by id, by revision, the folder; `main` is what it gives without one."""

    def __init__(self, repositories: Mapping[str, Mapping[str, Path]]) -> None:
        self.repositories = repositories
        self.asked: list[str] = []
        """Paths of all requests."""
        self.url = ""

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables of a process that knows this hub alone."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def folder(self, name: str, revision: str | None) -> tuple[str, Path] | None:
        """The commit that a revision is, and its folder."""
        revisions = self.repositories.get(name, {})
        if revision in revisions and revision != "main":
            return str(revision), revisions[str(revision)]
        newest = revisions.get("main") if revision in (None, "main") else None
        return (
            None if newest is None else (next(c for c, f in revisions.items() if f == newest and c != "main"), newest)
        )


def _listed(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.iterdir())
    return [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]


@contextmanager
def hub_of(repositories: Mapping[str, Mapping[str, Path]]) -> Iterator[FakeHub]:
    """A hub that answers while the block runs."""
    hub = FakeHub(repositories)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            if self.path != _OF_THE_LIBRARY:
                hub.asked.append(self.path)
            match = _FILE.fullmatch(self.path) or _ABOUT.fullmatch(self.path)
            found = hub.folder(match["id"], match["revision"]) if match else None
            if match is None or found is None:
                return self._send(404, b"", {"X-Error-Code": "RepoNotFound" if match else "EntryNotFound"}, with_body)
            commit, folder = found
            if "file" not in match.groupdict():
                about = json.dumps(_listed(folder) if "/tree/" in self.path else {"id": match["id"], "sha": commit})
                return self._send(200, about.encode(), {}, with_body)
            path = folder / match["file"]
            if not path.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, with_body)
            content = path.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, with_body)

        def _send(self, status: int, content: bytes, headers: Mapping[str, str], with_body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
