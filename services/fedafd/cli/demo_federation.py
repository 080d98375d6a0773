"""The demo's part of an operator: creates a federation, invites, starts rounds, pulls models; REST only."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedafd.cli.archives import extract_files
from fedafd.cli.remote.server import NOT_FOUND, PATIENCE_SECONDS, Server
from fedafd.domain.manifest import MANIFEST_NAME, read_manifest
from fedafd.domain.process_errors import ControlPlaneError

__all__ = ["FederationClient"]

_TERMINAL = frozenset({"completed", "failed", "cancelled"})


class FederationClient:
    """One federation over REST. Methods raise ControlPlaneError."""

    def __init__(self, url: str, api_key: str, federation: str) -> None:
        self.federation = federation
        self._server = Server(url, api_key)
        self._base = f"/federations/{federation}"

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def create(self, config: dict[str, Any]) -> None:
        """Create the federation."""
        self._server.ask("POST", "/federations", json=config)

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
            self._server.send(f"{self._base}/public-set/shards/{shard.sha256}", folder / shard.name)
        self._server.send(f"{self._base}/public-set", manifest)

    def invite(self, name: str, kind: str) -> str:
        """Invite a client; returns its one-time enrolment token."""
        invited = self._server.ask("POST", f"{self._base}/clients", json={"name": name, "kind": kind})
        return str(invited["enrolment_token"])

    def clients(self) -> list[dict[str, Any]]:
        """All clients."""
        return self._server.items(f"{self._base}/clients")

    def start_rounds(self, count: int) -> None:
        """Queue rounds."""
        self._server.ask("POST", f"{self._base}/rounds", json={"count": count})

    def round(self, number: int) -> dict[str, Any]:
        """A round with its participations and stages."""
        answer: dict[str, Any] = self._server.ask("GET", f"{self._base}/rounds/{number}")
        return answer

    def models(self) -> list[dict[str, Any]]:
        """The global model versions."""
        return self._server.items(f"{self._base}/models")

    def events(self) -> list[dict[str, Any]]:
        """The audit log."""
        return self._server.items(f"{self._base}/events")

    def wait_for_round(
        self,
        number: int,
        on_look: Callable[[dict[str, Any]], None],
        *,
        seconds: float,
        on_silence: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Look at the round until it is over; `on_look` sees each answer. Raises ControlPlaneError unless it completed.

        A control plane that is away or busy is asked again for a minute; `on_silence` is called before each time.
        """
        heard = time.monotonic()
        deadline = heard + seconds
        while True:
            try:
                answer = self.round(number)
            except ControlPlaneError as error:
                if not error.passing or time.monotonic() > min(heard + PATIENCE_SECONDS, deadline):
                    raise
                on_silence()
            else:
                heard = time.monotonic()
                on_look(answer)
                if answer["state"] == "completed":
                    return answer
                if answer["state"] in _TERMINAL:
                    raise ControlPlaneError(f"round {number} {answer['state']}: {answer['reason']}")
                if heard > deadline:
                    raise ControlPlaneError(f"round {number} is still {answer['state']} after {seconds:.0f} s")
            time.sleep(0.25)

    def pull_global_model(self, target: Path, version: str = "current") -> None:
        """Unpack a global model version into `target`."""
        self._pull(f"{self._base}/models/{version}/archive", target)

    def pull_personalized_model(self, client: str, target: Path, version: str = "current") -> None:
        """Unpack a client's personalized model version into `target`."""
        self._pull(f"{self._base}/clients/{client}/models/{version}/archive", target)

    def _pull(self, path: str, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        with self._server.download(path) as response:
            content = io.BytesIO(response.read())
        with tarfile.open(fileobj=content) as tar:
            extract_files(tar, target)

    def _find(self, path: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._server.ask("GET", path)
        except ControlPlaneError as error:
            if error.exit_code == NOT_FOUND:
                return None
            raise
        return found
