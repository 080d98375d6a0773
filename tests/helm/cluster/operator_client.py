"""The operator of the cluster test: REST through a port-forward that breaks whenever the pod behind it is deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.helm.cluster.kubernetes import Namespace, PortForward

from fedafd.client.answers import RoundDetails
from fedafd.client.federation import FederationClient
from fedafd.domain.process_errors import ControlPlaneError

T = TypeVar("T")
OPEN = ("queued", "preparing", "collecting", "distilling", "evaluating")
"""States of a round that is not over, in their order."""
_PATIENCE_SECONDS = 120.0


class Operator:
    """Asks again for as long as the line is down or the control plane says that it cannot serve."""

    def __init__(self, namespace: Namespace, service: str, api_key: str, federation: str) -> None:
        self._forward = PortForward(namespace, f"service/{service}", 80)
        self._rest = FederationClient(self._forward.url, api_key, federation)
        self.last_number = 0

    @classmethod
    def of_release(cls, namespace: Namespace, release: str, federation: str) -> Operator:
        """With the admin's key of the release as it is now."""
        return cls(namespace, f"{release}-fedafd-control-plane", namespace.admin_key(release), federation)

    def close(self) -> None:
        self._rest.close()
        self._forward.stop()

    def set_up(self, config: dict[str, Any], public_set: Path, clients: dict[str, str]) -> dict[str, str]:
        """Create the federation, push its public set, invite; the enrolment tokens by name."""
        self._again(lambda: self._rest.create(config))
        self._again(lambda: self._rest.push_public_set(public_set))
        return {name: self._again(partial(self._rest.invite, name, kind)) for name, kind in clients.items()}

    def create(self, config: dict[str, Any]) -> None:
        self._again(lambda: self._rest.create(config))

    def invite(self, name: str, kind: str, max_clients: int | None = None) -> str:
        """Invite a client, or a region of at most `max_clients`; the enrolment token."""
        return self._again(lambda: self._rest.invite(name, kind, max_clients=max_clients))

    def invite_again(self, name: str) -> str:
        """A new enrolment token for a client, whose old credential is void from then on."""
        return self._again(lambda: self._rest.invite_again(name))

    def clients(self) -> dict[str, str]:
        """State of each client."""
        return {each["name"]: each["state"] for each in self._again(self._rest.clients)}

    def start_rounds(self, count: int) -> list[int]:
        """Queue rounds; their numbers."""
        self._again(lambda: self._rest.start_rounds(count))
        numbers = list(range(self.last_number + 1, self.last_number + count + 1))
        self.last_number = numbers[-1]
        return numbers

    def round(self, number: int) -> RoundDetails:
        return self._again(lambda: self._rest.round(number))

    def state(self, number: int) -> str:
        return str(self.round(number)["state"])

    def reaches(self, number: int, state: str, seconds: float = 300) -> str:
        """The round's state once it is `state` or a later one. Raises AssertionError if the round is over by then."""
        deadline = time.monotonic() + seconds
        while (found := self.state(number)) in OPEN[: OPEN.index(state)]:
            assert time.monotonic() < deadline, f"round {number} is still {found}"
            time.sleep(0.1)
        assert found in OPEN, f"round {number} is {found} already"
        return found

    def completed(self, number: int, seconds: float = 600) -> RoundDetails:
        """The round, once it is over. Raises AssertionError unless it completed."""
        deadline = time.monotonic() + seconds
        while (answer := self.round(number))["state"] in OPEN:
            assert time.monotonic() < deadline, f"round {number} is still {answer['state']}: {answer}"
            time.sleep(0.5)
        assert answer["state"] == "completed", answer
        return answer

    def pull_personalized_model(self, client: str, target: Path) -> None:
        self._again(lambda: self._rest.pull_personalized_model(client, target))

    def pull_global_model(self, target: Path) -> None:
        self._again(lambda: self._rest.pull_global_model(target))

    def _again(self, call: Callable[[], T]) -> T:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self._forward.ensure()
            try:
                return call()
            except ControlPlaneError as error:
                if not error.passing or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
