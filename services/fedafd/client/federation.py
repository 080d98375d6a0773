"""One federation over REST: create it, push its public set, invite, start rounds and wait for them, pull models."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedafd.artifacts.manifest import MANIFEST_NAME, read_manifest
from fedafd.client import operations
from fedafd.client.answers import (
    Client,
    Event,
    ModelVersion,
    PublicSet,
    PulledModel,
    Round,
    RoundDetails,
    SearchAnswer,
)
from fedafd.client.control_plane import NOT_FOUND, PATIENCE_SECONDS, ControlPlaneClient
from fedafd.client.downloads import pull_model
from fedafd.client.operations import Answer, Operation
from fedafd.client.searching import search_model
from fedafd.domain.process_errors import ControlPlaneError
from fedafd.domain.states import ROUND_TRANSITIONS, RoundState, is_terminal

__all__ = ["FederationClient"]


class FederationClient:
    """One federation over REST. Methods raise ControlPlaneError."""

    def __init__(self, url: str, api_key: str, federation: str) -> None:
        self.name = federation
        self._control_plane = ControlPlaneClient(url, api_key)

    def close(self) -> None:
        """Close the connections."""
        self._control_plane.close()

    def create(self, config: dict[str, Any]) -> None:
        """Create the federation."""
        self._control_plane.ask(operations.CREATE_FEDERATION, json=config)

    def exists(self) -> bool:
        """Whether the federation was created."""
        return self._find(operations.SHOW_FEDERATION) is not None

    def public_set(self) -> PublicSet | None:
        """Hash and sizes of the public set; None before one was pushed."""
        return self._find(operations.SHOW_PUBLIC_SET)

    def push_public_set(self, folder: Path) -> None:
        """Send the shards that the folder's manifest names, then the manifest."""
        manifest = (folder / MANIFEST_NAME).read_bytes()
        for shard in read_manifest(manifest).shards:
            self._control_plane.send(operations.PUSH_SHARD, self.name, shard.sha256, content=folder / shard.name)
        self._control_plane.send(operations.PUSH_PUBLIC_SET, self.name, content=manifest)

    def invite(self, name: str, kind: str, *, max_clients: int | None = None) -> str:
        """Invite a client, or a region of at most `max_clients`; returns its one-time enrolment token."""
        wanted = {"name": name, "kind": kind, "max_clients": max_clients}
        return self._control_plane.ask(operations.INVITE_CLIENT, self.name, json=wanted)["enrolment_token"]

    def invite_again(self, name: str) -> str:
        """Invite a client anew, whose old credential is void from then on; returns its one-time enrolment token."""
        answer = self._control_plane.ask(operations.INVITE_AGAIN, self.name, name, json={})
        return answer["enrolment_token"]

    def revoke(self, name: str) -> None:
        """Refuse a client's credential and token from now on."""
        self._control_plane.ask(operations.REVOKE_CLIENT, self.name, name)

    def clients(self) -> list[Client]:
        """All clients."""
        return self._control_plane.items(operations.LIST_CLIENTS, self.name)

    def start_rounds(self, count: int) -> list[int]:
        """Queue rounds; returns their numbers."""
        started = self._control_plane.ask(operations.START_ROUNDS, self.name, json={"count": count})
        return [entry["number"] for entry in started["items"]]

    def rounds(self) -> list[Round]:
        """All rounds."""
        return self._control_plane.items(operations.LIST_ROUNDS, self.name)

    def round(self, number: int) -> RoundDetails:
        """A round with its participations and stages."""
        return self._control_plane.ask(operations.SHOW_ROUND, self.name, number)

    def models(self) -> list[ModelVersion]:
        """The global model versions."""
        return self._control_plane.items(operations.LIST_MODELS, self.name)

    def events(self) -> list[Event]:
        """The audit log."""
        return [event for page in self._control_plane.event_pages(self.name) for event in page["items"]]

    def wait_for_round(
        self,
        number: int,
        on_look: Callable[[RoundDetails], None],
        *,
        seconds: float,
        on_silence: Callable[[], None] = lambda: None,
    ) -> RoundDetails:
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
                if answer["state"] == RoundState.COMPLETED:
                    return answer
                if is_terminal(ROUND_TRANSITIONS, RoundState(answer["state"])):
                    raise ControlPlaneError(f"round {number} {answer['state']}: {answer['reason']}")
                if heard > deadline:
                    raise ControlPlaneError(f"round {number} is still {answer['state']} after {seconds:.0f} s")
            time.sleep(0.25)

    def pull_global_model(self, target: Path, version: str = "current") -> PulledModel:
        """Write a global model version as the folder `target`."""
        return pull_model(self._control_plane, self.name, version, target)

    def pull_personalized_model(self, client: str, target: Path, version: str = "current") -> PulledModel:
        """Write a client's personalized model version as the folder `target`."""
        return pull_model(self._control_plane, self.name, version, target, client=client)

    def search(
        self, version: str = "current", *, caption: str | None = None, image: bytes | None = None, top_k: int = 6
    ) -> SearchAnswer:
        """The public pictures nearest to a caption, or the captions nearest to the content of an image file.

        The first query to a version waits for its embeddings. Needs a query worker (`fedafd queries`).
        """
        return search_model(self._control_plane, self.name, version, caption=caption, image=image, top_k=top_k)

    def _find(self, operation: Operation[Answer]) -> Answer | None:
        """The answer; None where there is no such thing."""
        try:
            return self._control_plane.ask(operation, self.name)
        except ControlPlaneError as error:
            if error.exit_code == NOT_FOUND:
                return None
            raise
