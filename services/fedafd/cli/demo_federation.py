"""The demo's part of an operator: creates a federation, invites, starts rounds, pulls models; REST only."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from fedafd.cli.archives import extract_files
from fedafd.domain.errors import FedafdError
from fedafd.domain.manifest import MANIFEST_NAME, read_manifest

__all__ = ["FederationClient", "RestError"]

_TERMINAL = frozenset({"completed", "failed", "cancelled"})


class RestError(FedafdError):
    """The control plane refused; the message is the problem's detail."""

    code = "rest"


class FederationClient:
    """One federation over REST. Every method raises RestError for a refusal and httpx.HTTPError for a broken line."""

    def __init__(self, url: str, api_key: str, federation: str) -> None:
        self.federation = federation
        self._http = httpx.Client(base_url=f"{url}/v1", headers={"Authorization": f"Bearer {api_key}"}, timeout=60)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def create(self, config: dict[str, Any]) -> None:
        """Create the federation."""
        self._ask("POST", "/federations", json=config)

    def exists(self) -> bool:
        """Whether the federation was created."""
        return self._find(self._base) is not None

    def public_set(self) -> dict[str, Any] | None:
        """Hash and sizes of the public set; None before one was pushed."""
        return self._find(f"{self._base}/public-set")

    def push_public_set(self, folder: Path) -> None:
        """Send the shards that the folder's manifest names, then the manifest."""
        manifest = (folder / MANIFEST_NAME).read_bytes()
        for shard in read_manifest(manifest).shards:
            with (folder / shard.name).open("rb") as file:
                self._ask("PUT", f"{self._base}/public-set/shards/{shard.sha256}", content=_blocks(file))
        self._ask("PUT", f"{self._base}/public-set", content=manifest, headers={"Content-Type": "application/json"})

    def invite(self, name: str, kind: str) -> str:
        """Invite a client; returns its one-time enrolment token."""
        token: str = self._ask("POST", f"{self._base}/clients", json={"name": name, "kind": kind})["enrolment_token"]
        return token

    def clients(self) -> list[dict[str, Any]]:
        """All clients."""
        return self._items(f"{self._base}/clients")

    def start_rounds(self, count: int) -> None:
        """Queue rounds."""
        self._ask("POST", f"{self._base}/rounds", json={"count": count})

    def round(self, number: int) -> dict[str, Any]:
        """A round with its participations and stages."""
        answer: dict[str, Any] = self._ask("GET", f"{self._base}/rounds/{number}")
        return answer

    def models(self) -> list[dict[str, Any]]:
        """The global model versions."""
        return self._items(f"{self._base}/models")

    def events(self) -> list[dict[str, Any]]:
        """The audit log."""
        return self._items(f"{self._base}/events")

    def wait_for_round(
        self, number: int, on_look: Callable[[dict[str, Any]], None], *, seconds: float
    ) -> dict[str, Any]:
        """Look at the round until it is over; `on_look` sees each answer. Raises RestError unless it completed."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.round(number)
            on_look(answer)
            if answer["state"] == "completed":
                return answer
            if answer["state"] in _TERMINAL:
                raise RestError(f"round {number} {answer['state']}: {answer['reason']}")
            if time.monotonic() > deadline:
                raise RestError(f"round {number} is still {answer['state']} after {seconds:.0f} s")
            time.sleep(0.25)

    def pull_global_model(self, target: Path, version: str = "current") -> None:
        """Unpack a global model version into `target`."""
        self._pull(f"{self._base}/models/{version}/archive", target)

    def pull_personalized_model(self, client: str, target: Path, version: str = "current") -> None:
        """Unpack a client's personalized model version into `target`."""
        self._pull(f"{self._base}/clients/{client}/models/{version}/archive", target)

    @property
    def _base(self) -> str:
        return f"/federations/{self.federation}"

    def _pull(self, path: str, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        response = _checked(self._http.get(path, timeout=600))
        with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
            extract_files(tar, target)

    def _items(self, path: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self._ask("GET", path, params={"cursor": cursor} if cursor else {})
            items += page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return items

    def _find(self, path: str) -> dict[str, Any] | None:
        response = self._http.get(path)
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        found: dict[str, Any] = _checked(response).json()
        return found

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        response = _checked(self._http.request(method, path, **options))
        return response.json() if response.content else None


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        problem = response.json()
        text = f"{problem.get('title', '')}: {problem.get('detail', '')}"
    except ValueError:
        text = response.text[:300]
    raise RestError(f"{response.request.method} {response.request.url.path}: {response.status_code} {text}")


def _blocks(file: io.BufferedReader) -> Iterator[bytes]:
    while block := file.read(1 << 20):
        yield block
