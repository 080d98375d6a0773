"""A federation of real processes whose distillers, agents and Redis die, and are started again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.end_to_end.federation import FEDERATION, Trial, embedded
from tests.servers import redis_server

from fedafd.datasets import load_public_data, write_public_set
from fedafd.local.supervisor import Child, Supervisor

SETTINGS = {"FEDAFD_AGGREGATOR_STAGE_LEASE_SECONDS": "2", "FEDAFD_AGGREGATOR_LEASE_SECONDS": "2"}
DOOMED = "tests.end_to_end.doomed_distiller"


class Storm:
    """A trial whose distillers and Redis may die, and are started again as an orchestrator would."""

    def __init__(
        self,
        supervisor: Supervisor,
        folder: Path,
        *,
        always: str | None = None,
        values: Mapping[str, Any] = FEDERATION,
        sites: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`always`: a kind of stage, as tests.end_to_end.doomed_distiller takes it; `sites` as Trial; `settings` are
        further variables of the services.
        """
        self.marks = folder / "marks"
        self.marks.mkdir()
        self._redis_folder = folder / "redis"
        self._redis_folder.mkdir()
        self._redis = ExitStack()
        self.redis_url = self._redis.enter_context(redis_server(self._redis_folder))
        own = {"DOOMED_MARKS": str(self.marks), "FEDAFD_DISTILLER_CACHE_DIR": str(folder / "cache")}
        own |= {"DOOMED_ALWAYS": always} if always else {}
        backends = embedded(folder, self.redis_url)
        self.trial = Trial(
            supervisor, backends, folder, distiller=False, settings={**SETTINGS, **own, **settings}, sites=sites
        )
        self.public = folder / "public-set"
        write_public_set(
            load_public_data("shapes", None, {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5}), self.public
        )
        self.trial.rest.create(dict(values))
        self.trial.rest.push_public_set(self.public)
        self.distillers: list[Child] = []
        self.deaths = 0

    def close(self) -> None:
        self.trial.rest.close()
        self._redis.close()

    def start_distillers(self, count: int) -> None:
        self.distillers += [self.trial.services.start_distiller(DOOMED) for _ in range(count)]

    def kill_distillers(self) -> None:
        for child in self.distillers:
            self.trial.kill(child)
        self.distillers.clear()

    def restart_the_dead(self, _: object = None) -> None:
        for child in [child for child in self.distillers if child.process.poll() is not None]:
            self.trial.supervisor.forget(child)
            self.distillers.remove(child)
            self.deaths += 1
            self.start_distillers(1)

    def restart_redis(self) -> None:
        """Stop it and start an empty one at the same address."""
        port = int(self.redis_url.split(":")[2].split("/")[0])
        self._redis.close()
        self._redis.enter_context(redis_server(self._redis_folder, port=port))

    def participation(self, number: int, client: str) -> Mapping[str, Any]:
        parts = self.trial.rest.round(number)["participations"]
        return next((part for part in parts if part["client"] == client), {})
