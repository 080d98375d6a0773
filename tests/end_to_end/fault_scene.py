"""A federation of real processes whose parts can be killed, frozen, cut off and damaged, round after round.

Beside it the same federation runs in one process, without any service: each round's outcome must be its, bit for bit.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.end_to_end.federation import FEDERATION, KINDS, Trial, embedded
from tests.end_to_end.in_process import InProcess, assert_same, pulled
from tests.end_to_end.supervised import LoggedSupervisor
from tests.hole import Hole
from tests.servers import redis_server

from fedafd.client.answers import RoundDetails
from fedafd.datasets import load_public_data, write_public_set
from fedafd.local.services import Backends
from fedafd.local.supervisor import Child

__all__ = ["GRACE_SECONDS", "MOMENTS", "Scene", "flip", "swallowing"]

MOMENTS = ("preparing", "training", "delivering", "distilling")
"""When a fault strikes: the server trains; a site trains; a site has delivered; nobody is waited for any more."""
GRACE_SECONDS = 5
_SETTINGS = {
    "FEDAFD_AGGREGATOR_STAGE_LEASE_SECONDS": "2",
    "FEDAFD_AGGREGATOR_LEASE_SECONDS": "2",
    "FEDAFD_AGGREGATOR_SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS),
    "FEDAFD_DISTILLER_SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS),
}
_LONGEST_ROUND_SECONDS = 240.0
_LONGEST_END_SECONDS = 60.0


class Scene:
    """Services, three agents and one distiller on SQLite, a folder and a Redis of its own, below `folder`."""

    trial_kind: type[Trial] = Trial
    line_kind: type[Hole] = Hole
    """Of the line between the sites and the aggregator."""
    sites_line: Hole

    def __init__(self, folder: Path, values: Mapping[str, Any] = FEDERATION) -> None:
        self.folder = folder
        self.stack = ExitStack()
        self.later = ExitStack()
        """What is put right when the round is over."""
        self._redis = ExitStack()
        (folder / "redis").mkdir(parents=True)
        url = self._redis.enter_context(redis_server(folder / "redis"))
        self._redis_port = int(url.split(":")[2].split("/")[0])
        self.redis_line = Hole(("127.0.0.1", self._redis_port))
        self.supervisor = self.stack.enter_context(LoggedSupervisor(folder / "logs"))
        settings = _SETTINGS | {"FEDAFD_DISTILLER_CACHE_DIR": str(folder / "cache")} | self.own_settings()
        backends = self.backends(f"redis://127.0.0.1:{self.redis_line.port}/0")
        sites = dict.fromkeys(KINDS, self.own_keys())
        self.trial = self.trial_kind(self.supervisor, backends, folder, settings=settings, sites=sites)
        host, port = self.trial.services.aggregator.split(":")
        self.sites_line = self.line_kind((host, int(port)))
        self.trial.dialled = f"127.0.0.1:{self.sites_line.port}"
        self.rest = self.trial.rest
        public = folder / "public-set"
        write_public_set(
            load_public_data("shapes", None, {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5}), public
        )
        self.rest.create(dict(values))
        self.rest.push_public_set(public)
        self.trial.invite_all()
        for name in KINDS:
            self.trial.start_agent(name)
        credentials = [folder / name / "credential.json" for name in KINDS]
        self.trial.until(lambda: all(path.exists() for path in credentials), "the agents", 120)
        self._calm = InProcess(values, public, folder / "in-process")
        self.number = 0

    def backends(self, redis_url: str) -> Backends:
        """Where the services keep their state."""
        return embedded(self.folder, redis_url)

    def own_settings(self) -> dict[str, str]:
        """Further variables of the services."""
        return {}

    def own_keys(self) -> dict[str, Any]:
        """Further keys of each site's agent.yaml."""
        return {}

    def close(self) -> None:
        self.rest.close()
        self.stack.close()
        self.redis_line.close()
        self.sites_line.close()
        self._redis.close()

    def begin_round(self) -> None:
        self.number += 1
        self.rest.start_rounds(1)

    def until(self, moment: str) -> None:
        """Wait for one of MOMENTS in the round at hand, or what follows it, if it passed between two looks."""
        self.trial.until(lambda: self._reached(moment), moment, _LONGEST_ROUND_SECONDS)

    def end_round(self) -> RoundDetails:
        """Wait for the round's end; what REST says of it. Raises ControlPlaneError for a round that fails."""
        with self.later.pop_all():
            return self.rest.wait_for_round(self.number, lambda _: None, seconds=_LONGEST_ROUND_SECONDS)

    def compare(self, answer: RoundDetails, absent: Collection[str] = ()) -> None:
        """Raise AssertionError if a bit of the round's outcome is another than without services."""
        found = pulled(self.trial, answer, self.number, [name for name in KINDS if name not in absent])
        assert_same(found, self._calm.round(self.number, absent))

    def _reached(self, moment: str) -> bool:
        answer = self.rest.round(self.number)
        parts = {part["state"] for part in answer["participations"]}
        reached: dict[str, bool] = {
            "preparing": answer["state"] == "preparing",
            "training": "training" in parts,
            "delivering": "delivered" in parts,
            "distilling": answer["state"] in ("distilling", "evaluating", "completed", "failed"),
        }
        return any(reached[each] for each in MOMENTS[MOMENTS.index(moment) :])

    def child(self, name: str) -> Child:
        return next(child for child in self.supervisor.children if child.name == name)

    def start(self, name: str) -> None:
        """Start one that was killed, as an orchestrator would."""
        services = self.trial.services
        if name.startswith("agent-"):
            self.trial.start_agent(name.removeprefix("agent-"))
        elif name == "aggregator":
            services.start_aggregator()
        elif name == "distiller":
            services.start_distiller()
        else:
            services.start_control_plane()
            services.wait_for_control_plane()

    def kill(self, *names: str) -> None:
        for name in names:
            self.trial.kill(self.child(name))

    def end(self, name: str) -> float:
        """Ask one to end; the seconds it took."""
        child, began = self.child(name), time.monotonic()
        os.kill(child.process.pid, signal.SIGTERM)
        child.process.wait(_LONGEST_END_SECONDS)
        self.supervisor.forget(child)
        return time.monotonic() - began

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """A process that does nothing, and holds its connections."""
        pid = self.child(name).process.pid
        os.kill(pid, signal.SIGSTOP)
        yield
        os.kill(pid, signal.SIGCONT)

    @contextmanager
    def redis_away(self) -> Iterator[None]:
        """Killed, and back empty at the same address."""
        self._redis.close()
        yield
        self._redis.enter_context(redis_server(self.folder / "redis", port=self._redis_port))

    @contextmanager
    def store_away(self) -> Iterator[None]:
        """The share that the store lies on is not mounted."""
        store, elsewhere = self.folder / "store", self.folder / "unmounted"
        store.rename(elsewhere)
        yield
        elsewhere.rename(store)

    @contextmanager
    def database_locked(self) -> Iterator[None]:
        """Nobody can write."""
        with closing(sqlite3.connect(self.folder / "fedafd.db", isolation_level=None, timeout=20)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    @contextmanager
    def drained(self) -> Iterator[None]:
        """No queued round may start."""
        address = f"{self.trial.services.url}/v1/drain"
        headers = {"Authorization": f"Bearer {self.trial.services.api_key}"}
        httpx.put(address, headers=headers, json={"reason": "upgrade"}).raise_for_status()
        yield
        httpx.delete(address, headers=headers).raise_for_status()

    def folder_read_only(self, name: str, seconds: float) -> None:
        """A site's state folder, as a disk turns that has errors. Needs root; raises PermissionError without."""
        place = str(self.folder / name)
        if os.geteuid() != 0:
            raise PermissionError("mounting needs root")
        subprocess.run(["mount", "--bind", place, place], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
            time.sleep(seconds)
        finally:
            subprocess.run(["mount", "-o", "remount,rw,bind", place], check=True)
            subprocess.run(["umount", "--lazy", place], check=True)

    def objects(self, number: int, purpose: str) -> list[Path]:
        """The stored objects of a round, without those that are being written."""
        place = self.folder / "store" / "federations" / "trial" / "rounds" / str(number) / purpose
        return sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """Kill these, and start them again at the end."""
        self.kill(*names)
        yield
        for name in names:
            self.start(name)


@contextmanager
def swallowing(line: Hole) -> Iterator[None]:
    """What is sent through the line meanwhile arrives at the end only."""
    line.swallow()
    yield
    line.let_through()


def flip(path: Path) -> None:
    """One bit in the middle, as a bad disk does it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
