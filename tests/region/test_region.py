"""A region when something fails: what is finished counts, what nobody asks for ends, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from tests.full_disk import full_disk
from tests.region.conftest import Levels
from tests.region.world import Services, agent, at_work, region, until
from tests.servers import free_port

from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.files import disk_full_is_clear
from fedafd.agent.training import LocalResult, LocalTask
from fedafd.artifacts.manifest import read_manifest
from fedafd.artifacts.representations import encode_representations
from fedafd.domain.errors import ConfigurationError, DatabaseUnavailableError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.leaving import LEFT, Activity, ActivityKind
from fedafd.domain.states import ParticipationState, RoundState
from fedafd.persistence.database import Database
from fedafd.persistence.following_repository import end_round
from fedafd.persistence.participation_repository import reopen_participation
from fedafd.persistence.round_repository import get_round_by_number
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.region import runner
from fedafd.region.own_federation import OwnFederation, _seconds


class ScriptedSite:
    """Sends rows that depend on its name alone, once `may_end` is set."""

    def __init__(self, name: str) -> None:
        self.seed = sum(map(ord, name))
        self.may_end = threading.Event()
        self.trained = 0

    def train(self, task: LocalTask, progress: Any) -> LocalResult:
        while not self.may_end.wait(0.05):
            progress(0.5, Activity(ActivityKind.TRAINING, 1, 2))
        count = read_manifest(task.manifest.read_bytes()).num_samples()
        rows = np.random.default_rng(self.seed).normal(size=(count, task.config.embedding_dim)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sent = encode_representations({Modality.IMAGE: rows}, task.public_set_sha256, task.config.wire_dtype)
        self.trained += 1
        return LocalResult(
            representations=sent, state=b"state", personalized_model=None, metrics={}, num_private_samples=3
        )


class Scene:
    """The region `north` with one scripted site, and a round of the upper federation that both are asked into."""

    def __init__(self, levels: Levels, folder: Path) -> None:
        self.above, self.below, self.folder = levels.above, levels.below, folder
        self.site = ScriptedSite("a")
        self.processes: list[asyncio.subprocess.Process] = []

    @asynccontextmanager
    async def its_site(self) -> AsyncIterator[None]:
        with suppress(Exception):  # the second time it is there
            await self.below.federation("north")
            self.token = await self.below.invite("north", "a", "image")
        run = partial(agent, self.folder / "a", self.below, "a", "image", self.token)
        async with at_work(lambda stop: run(stop, trainer=self.site)):
            await until(self.enrolled, "the agent")
            yield
            self.site.may_end.set()

    async def invited(self) -> str:
        return await self.above.invite("upper", "north", "region", max_clients=1)

    def running(self, token: str | None) -> Any:
        return at_work(partial(region, self.folder / "region", self.above, self.below, "north", token))

    async def enrolled(self) -> bool:
        return (self.folder / "a" / "credential.json").exists()

    async def region_enrolled(self) -> bool:
        return (self.folder / "region" / "credential.json").exists()

    async def until_state(self, services: Services, federation: str, state: RoundState) -> None:
        async def reached() -> bool:
            with suppress(Exception):
                return (await services.round(federation, 1))[0].state == state
            return False

        await until(reached, f"{federation} to be {state}")

    async def until_training(self) -> None:
        async def training() -> bool:
            with suppress(Exception):
                parts = (await self.below.round("north", 1))[1]
                return parts["a"].state == ParticipationState.TRAINING
            return False

        await until(training, "the site to train")


@pytest.fixture
async def scene(levels: Levels, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(levels, tmp_path)
    yield scene
    for process in scene.processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_region_that_is_killed_while_its_sites_train_goes_on(scene: Scene) -> None:
    """SIGKILL of the real process."""
    async with scene.its_site():
        token = await scene.invited()
        config = {"aggregator": scene.above.address, "federation": "north", "state_dir": str(scene.folder / "region")}
        (scene.folder / "region.yaml").write_text(yaml.safe_dump(config))
        first = await _started(scene, "--token", token)
        await until(scene.region_enrolled, "the region to enrol")
        await scene.above.start_round("upper")
        await scene.until_training()
        first.send_signal(signal.SIGKILL)
        await first.wait()
        scene.site.may_end.set()
        await scene.until_state(scene.below, "north", RoundState.DISTILLING)
        second = await _started(scene)
        assert (await scene.above.over("upper", 1)).state == "completed"
        assert (await scene.below.over("north", 1)).state == "completed"
        second.terminate()
        assert await second.wait() == 0
    assert scene.site.trained == 1


async def test_its_metrics_answer_once_it_is_enrolled_and_count_its_rounds(scene: Scene) -> None:
    """What a container's health check asks: a region that is not in the upper federation yet is not healthy."""
    listen = f"127.0.0.1:{free_port()}"

    async def answers() -> bool:
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://{listen}/metrics")).is_success
        return False

    async def counted() -> bool:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://{listen}/metrics")).text
        lines = {'fedafd_region_rounds_total{outcome="delivered"} 1.0', "fedafd_region_last_round 1.0"}
        return {*lines, "fedafd_region_following 0.0"} <= set(text.splitlines())

    async def called_in_vain() -> bool:
        return "agent.aggregator_unreachable" in (scene.folder / "region.log").read_text(encoding="utf-8")

    async with scene.its_site():
        token = await scene.invited()
        config = {"aggregator": f"127.0.0.1:{free_port()}", "federation": "north"}
        config["state_dir"] = str(scene.folder / "region")
        (scene.folder / "region.yaml").write_text(yaml.safe_dump(config))
        waiting = await _started(scene, "--token", token, listen=listen)
        await until(called_in_vain, "the region to call in vain")
        assert not await answers()
        waiting.kill()
        await waiting.wait()
        (scene.folder / "region.yaml").write_text(yaml.safe_dump(config | {"aggregator": scene.above.address}))
        await _started(scene, "--token", token, listen=listen)
        await until(answers, "the region to enrol")
        await scene.above.start_round("upper")
        scene.site.may_end.set()
        assert (await scene.above.over("upper", 1)).state == "completed"
        await until(counted, "the count of its round", seconds=20)


async def _started(scene: Scene, *more: str, listen: str | None = None) -> asyncio.subprocess.Process:
    environment = os.environ | {
        "FEDAFD_REGION_DATABASE_URL": scene.below.database_url,
        "FEDAFD_REGION_STORE__URL": str(scene.folder / "below" / "store"),
        "FEDAFD_REGION_LOOK_SECONDS": "0.1",
        "OMP_NUM_THREADS": "1",
    }
    if listen is not None:
        environment["FEDAFD_REGION_METRICS_LISTEN"] = listen
    command = [
        sys.executable,
        "-m",
        "fedafd.cli.main",
        "region",
        "run",
        "--config",
        str(scene.folder / "region.yaml"),
        *more,
    ]
    with (scene.folder / "region.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=log)
    scene.processes.append(process)
    return process


async def test_a_region_whose_own_round_is_cancelled_leaves_the_upper_round(scene: Scene) -> None:
    async with scene.its_site(), scene.running(await scene.invited()):
        await scene.above.start_round("upper")
        await scene.until_training()
        row, _ = await scene.below.round("north", 1)
        own = OwnFederation(scene.below.database, scene.below.store, "north")
        await own.end(row.id, RoundState.CANCELLED, "cancelled by an operator")
        scene.below.context.wakeups.changed("north")
        over = await scene.above.over("upper", 1)
        part = (await scene.above.round("upper", 1))[1]["north"]
    assert (over.state, over.reason) == (
        "failed",
        f"quorum not reached: 0 of 1 deliveries; north: {(part.reason or '').removeprefix(LEFT)}",
    )
    assert (part.state, part.reason_code) == ("dropped", "region-round-failed")


async def test_a_region_whose_disk_is_full_leaves_the_upper_round_as_an_agent_does(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        with disk_full_is_clear(path.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(runner, "write_atomically", full)
    scene.site.may_end.set()
    async with scene.its_site(), scene.running(await scene.invited()):
        await scene.above.start_round("upper")
        over = await scene.above.over("upper", 1)
        part = (await scene.above.round("upper", 1))[1]["north"]
        own = await scene.below.over("north", 1)
    assert (over.state, over.reason) == (
        "failed",
        f"quorum not reached: 0 of 1 deliveries; north: {(part.reason or '').removeprefix(LEFT)}",
    )
    assert (part.state, part.reason_code) == ("dropped", "disk-full")
    assert own.state == "cancelled"


async def test_a_region_whose_store_is_full_leaves_the_upper_round_at_once(scene: Scene) -> None:
    async with scene.its_site(), scene.running(await scene.invited()):
        await until(scene.region_enrolled, "the region")
        incoming = scene.below.store.root / ".incoming"
        incoming.mkdir(exist_ok=True)
        with full_disk(incoming):
            await scene.above.start_round("upper")
            await scene.above.over("upper", 1)
        part = (await scene.above.round("upper", 1))[1]["north"]
    assert (part.state, part.reason_code) == ("dropped", "disk-full")


async def test_an_upper_round_that_is_cancelled_ends_the_regions(scene: Scene) -> None:
    async with scene.its_site(), scene.running(await scene.invited()):
        await scene.above.start_round("upper")
        await scene.until_training()
        async with scene.above.database.transaction() as session:
            row = await get_round_by_number(session, "upper", 1)
            assert await end_round(session, row, RoundState.CANCELLED, "cancelled by an operator")
        scene.above.context.wakeups.changed("upper")
        over = await scene.below.over("north", 1)
        parts = (await scene.below.round("north", 1))[1]
    assert (over.state, over.reason) == ("cancelled", "the upper federation's round went on without it")
    assert parts["a"].state == "dropped"


async def test_a_delivery_whose_answer_was_lost_counts_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upper round is over before the region hears that it has delivered."""
    monkeypatch.setattr(runner, "_AFTER_ERROR_SECONDS", 0.1)
    told, noted = [], OwnFederation.delivered

    async def lose_first(self: OwnFederation, *args: Any) -> None:
        told.append(args)
        if len(told) == 1:
            assert (await scene.above.over("upper", 1)).state == "completed"
            raise DatabaseUnavailableError("the answer is lost")
        await noted(self, *args)

    monkeypatch.setattr(OwnFederation, "delivered", lose_first)
    async with scene.its_site(), scene.running(await scene.invited()):
        scene.site.may_end.set()
        await scene.above.start_round("upper")
        over = await scene.below.over("north", 1)
    assert (over.state, len(told)) == ("completed", 2)
    assert told[0][1] == told[1][1] == over.upstream_receipt


async def test_a_delivery_that_the_upper_store_lost_is_sent_again(scene: Scene) -> None:
    """Another participant keeps the upper round open; what the region had merged is gone, but for what it keeps."""
    waits = AggregatorConnection(scene.above.address, stop=asyncio.Event())
    await waits.enrol(await scene.above.invite("upper", "slow", "image"), ClientKind.IMAGE)
    await waits.close()

    async def delivered() -> bool:
        with suppress(Exception):
            return (await scene.above.round("upper", 1))[1]["north"].state == ParticipationState.DELIVERED
        return False

    async with scene.its_site(), scene.running(await scene.invited()):
        scene.site.may_end.set()
        await scene.above.start_round("upper")
        await until(delivered, "the delivery")
        await scene.below.over("north", 1)
        for each in list(scene.below.store.list("federations/north/rounds/1/sed-state")):
            scene.below.store.delete(each.key)
        async with scene.above.database.transaction() as session:
            part = (await scene.above.round("upper", 1))[1]["north"]
            assert await reopen_participation(session, part.id, ParticipationState.INVITED)
        scene.above.context.wakeups.changed("upper")
        await until(delivered, "the second delivery")
    again = (await scene.above.round("upper", 1))[1]["north"]
    assert again.region_clients == {"total": 1, "image": 1}


async def test_what_the_regions_store_lost_is_put_there_again(scene: Scene) -> None:
    async with scene.its_site():
        pass
    scene.site.may_end.clear()
    async with scene.running(await scene.invited()):
        await scene.above.start_round("upper")
        await scene.until_state(scene.below, "north", RoundState.COLLECTING)
        for each in list(scene.below.store.list("federations/north/rounds/1/")):
            scene.below.store.delete(each.key)
        async with scene.its_site():
            scene.site.may_end.set()
            assert (await scene.above.over("upper", 1)).state == "completed"


async def test_a_federation_that_does_not_exist_or_has_another_task_is_refused(levels: Levels) -> None:
    database: Database = levels.below.database
    nowhere = OwnFederation(database, levels.below.store, "nowhere")
    with pytest.raises(ConfigurationError, match="federation nowhere does not exist; create it"):
        await nowhere.follow("upper")
    await levels.below.federation("north")
    north = OwnFederation(database, levels.below.store, "north")
    await north.follow("upper")
    await north.follow("upper")
    with pytest.raises(ConfigurationError, match="is a region of upper"):
        await north.follow("another")


@pytest.mark.parametrize("seconds", [2**62, -(2**62)])
def test_a_deadline_that_no_calendar_has_is_none(seconds: int) -> None:
    task = pb.TrainTask()
    task.deadline.seconds = seconds
    assert _seconds(task, 0.5) is None
