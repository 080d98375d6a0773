"""A real control plane for tests of the commands."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from tests.servers import free_port, wait_until

from fedafd.client.http import make_client
from fedafd.domain.states import ParticipationState, RoundState
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.database import Database
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import utc_now
from fedafd.persistence.participation_repository import invite_cohort, list_participations, settle_participation
from fedafd.persistence.round_repository import get_round_by_number, transition_round

KEY = "fedafd-key.remote-test"
Run = Callable[..., tuple[int, str, str]]


class ControlPlane:
    """A control plane as a process that can be stopped and started again on its port."""

    def __init__(self, folder: Path, database_url: str | None = None) -> None:
        self.database_url = database_url or f"sqlite:///{folder}/fedafd.db"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "control-plane.log"
        migrate(self.database_url)
        settings = {"DATABASE_URL": self.database_url, "STORE__URL": str(folder / "store"), "ADMIN_KEY": KEY}
        settings |= {"PORT": str(self.port), "STREAM_POLL_SECONDS": "0.2"}
        self._environment = os.environ | {f"FEDAFD_CONTROL_PLANE_{key}": value for key, value in settings.items()}
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "fedafd.control_plane.app"]
            self.process = subprocess.Popen(command, env=self._environment, stdout=output, stderr=output)
        wait_until(self._ready, "the control plane", seconds=90)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish_round(self, number: int, state: RoundState, *, dropped: str | None = None) -> None:
        """Walk a round to its end, as a coordinator would; `dropped` names a client that was dropped from it."""

        async def walk() -> None:
            database = Database(self.database_url)
            steps = [RoundState.PREPARING, RoundState.COLLECTING, RoundState.DISTILLING, RoundState.EVALUATING, state]
            for step in steps if state is RoundState.COMPLETED else [state]:
                async with database.transaction() as session:
                    row = await get_round_by_number(session, "trial", number)
                    metrics = {"rsum": 10.0, "i2t_r1": 1.0, "t2i_r1": 2.0}
                    values: dict[str, Any] = {RoundState.COMPLETED: {"metrics": metrics}}.get(step, {})
                    values |= {"reason": "a test"} if step is RoundState.FAILED else {}
                    values |= {"started_at": utc_now()} if step is RoundState.PREPARING else {}
                    assert await transition_round(session, row, step, token=1, actor="test", **values)
                    if step is RoundState.COLLECTING and dropped is not None:
                        await invite_cohort(session, row.id, [await get_client(session, "trial", dropped)])
                        ((part, _),) = await list_participations(session, row.id)
                        left = {"reason": "the round's deadline passed"}
                        assert await settle_participation(session, part.id, ParticipationState.DROPPED, **left)
            await database.close()

        asyncio.run(walk())

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with make_client(self.url, timeout=5) as client:
                return client.get(f"{self.url}/readyz").is_success
        except httpx.HTTPError:
            return False
