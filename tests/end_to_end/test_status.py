"""`fedafd status` beside real processes: what was stopped, broken or is missing is named, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update
from tests.datasets.makers import image_folder
from tests.end_to_end.federation import FEDERATION, TINY_IMAGE, Trial, embedded
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.exit_codes import ExitCode
from fedafd.agent.state import StateDirectory
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.kinds import ClientKind
from fedafd.local.services import restart_redis, start_redis
from fedafd.messaging.presence import PRESENCE_SECONDS
from fedafd.persistence.database import Database
from fedafd.persistence.models import ClientRow, utc_now
from fedafd.rpc.client_key import ClientKey

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    """Two sites are invited, both are needed, and no distiller is there."""
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        backends = embedded(tmp_path, start_redis(supervisor, tmp_path))
        pictures = {"adapter": "image-folder", "path": str(image_folder(tmp_path / "pictures", splits=True))}
        trial = Trial(supervisor, backends, tmp_path, distiller=False, sites={"images": {"data": pictures}})
        public = load_public_data("shapes", None, {"num_train": 16, "num_val": 4, "num_test": 4, "seed": 5})
        write_public_set(public, tmp_path / "public-set")
        trial.rest.create(
            FEDERATION | {"image_encoder": TINY_IMAGE, "quorum": {"min_clients": 2}, "idle_timeout_seconds": 600}
        )
        trial.rest.push_public_set(tmp_path / "public-set")
        yield trial
        trial.rest.close()


def fedafd(trial: Trial, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {"FEDAFD_URL": trial.services.url, "FEDAFD_API_KEY": trial.services.api_key, "FEDAFD_FEDERATION": "trial"}
    command = [sys.executable, "-m", "fedafd.cli.main", *arguments]
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)


def told(trial: Trial, *words: str, code: int, seconds: float = 240.0) -> None:
    """Wait until the control plane says all of `words`; the command then says them, too, and ends with `code`."""
    url, headers = f"{trial.services.url}/v1/status", {"Authorization": f"Bearer {trial.services.api_key}"}

    def found() -> bool:
        said = httpx.get(url, headers=headers, timeout=30).text
        return all(json.dumps(each, ensure_ascii=False)[1:-1] in said for each in words)

    trial.until(found, f"status saying {words}", seconds)
    answer = fedafd(trial, "status")
    assert all(each in answer.stdout for each in words), answer.stdout + answer.stderr
    assert answer.returncode == code, answer.stdout


def enrol(trial: Trial, name: str, kind: ClientKind) -> None:
    """As an agent would that is gone then."""

    async def call() -> None:
        connection = AggregatorConnection(trial.services.aggregator, stop=asyncio.Event())
        credential = await connection.enrol(trial.rest.invite(name, kind.value), kind, os.urandom(16), ClientKey())
        await connection.close()
        StateDirectory(trial.folder / name).save_credential(credential)

    asyncio.run(call())


def call_them_away(trial: Trial) -> None:
    """Move what was last seen of the sites into the past, instead of waiting for a minute."""

    async def move() -> None:
        database = Database(trial.services.backends.database_url)
        async with database.transaction() as session:
            await session.execute(update(ClientRow).values(last_seen_at=utc_now() - timedelta(seconds=300)))
        await database.close()

    asyncio.run(move())
    assert PRESENCE_SECONDS < 300


def test_status_names_each_cause(trial: Trial, tmp_path: Path) -> None:
    told(trial, "no site has enrolled yet", "invite a site", code=0)
    enrol(trial, "texts", ClientKind.TEXT)
    enrol(trial, "images", ClientKind.IMAGE)
    trial.rest.start_rounds(1)
    told(trial, "waits for a distiller", "none is running", "start one: `fedafd distiller`", code=1)

    store = tmp_path / "store"
    store.rename(tmp_path / "elsewhere")
    told(trial, "the object store cannot be used", str(store), "see that it runs", code=1)
    (tmp_path / "elsewhere").rename(store)

    redis = next(child for child in trial.supervisor.children if child.name == "redis")
    trial.kill(redis)
    told(trial, "Redis cannot be reached", "onnect", "start it", code=1)
    restart_redis(trial.supervisor, trial.services.backends.redis_url, tmp_path)

    assert fedafd(trial, "drain", "--no-wait", "--reason", "upgrade").returncode == 0
    told(trial, "drained by", "(upgrade)", "end it with `fedafd resume`", code=1)
    assert fedafd(trial, "resume").returncode == 0

    trial.services.start_distiller()
    call_them_away(trial)
    told(trial, "waits for images, texts: no agent of them is online", "fedafd agent run", code=1)

    picture = next((tmp_path / "pictures" / "train").rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:40])
    assert run_images(trial).returncode == ExitCode.DATA
    told(
        trial, "cannot reach its quorum: 1 of 2 sites", "dropped: images (left: its private data cannot be used",
        "cancel it", code=1,
    )  # fmt: skip
    assert '"leave"' in (tmp_path / "images" / "sent.jsonl").read_text()
    assert fedafd(trial, "round", "cancel", "1").returncode == 0
    told(trial, "no round is open", code=0)

    for process in ("control-plane", "aggregator", "distiller"):
        lines = (tmp_path / "logs" / f"{process}.log").read_text().splitlines()
        assert lines
        assert all(json.loads(line)["process"] == process for line in lines), f"a line of {process} is no JSON object"


def run_images(trial: Trial) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedafd.agent.main", "--config", str(trial.agent_file("images"))]
    return subprocess.run(command, capture_output=True, text=True, check=False)
