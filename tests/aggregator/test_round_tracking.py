"""Finished rounds in the operator's trackers: points from the rows, weights from the states, in no round's way."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from structlog.testing import capture_logs
from tests.aggregator.world import World
from tests.servers import free_port, wait_until
from tests.tracking.test_tensorboard import points

from fedafd.aggregator.round_points import sed_weights
from fedafd.aggregator.round_tracking import RoundTracking, track_rounds
from fedafd.aggregator.server import serve
from fedafd.aggregator.settings import AggregatorSettings, load_settings
from fedafd.algorithm.distillation import SimilarityEnsemble, similarity_weights
from fedafd.algorithm.fedmd import MeanEnsemble
from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import ArtifactCorruptError, ConfigurationError
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import RoundState
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.migrate import migrate
from fedafd.persistence.round_repository import add_rounds
from fedafd.storage.folder import FolderStore

N, DIM = 40, 8


def state(reps: torch.Tensor, target: torch.Tensor, *, weight: float = 1.0, mean: bool = False) -> bytes:
    ensemble = MeanEnsemble(target) if mean else SimilarityEnsemble(target, 0.5)
    ensemble.add(reps, weight=weight)
    return save(ensemble.state())


def rows(seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(N, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


async def finish_round(world: World, caller: tuple[tuple[str, str], ...], sed: bytes) -> str:
    round_id = await world.start_round()
    await world.prepare()
    assert (await world.deliver(caller, round_id, world.reps())).accepted
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=sed)
    await world.distil(StageKind.DISTIL, server_state=b"distilled")
    await world.distil(StageKind.EVALUATE, server_state=b"distilled", model__config=b"{}")
    return round_id


def test_weights_are_the_mean_of_the_ensembles_own(tmp_path: Path) -> None:
    store, target = FolderStore(tmp_path), rows(0)
    reps = torch.stack([target, rows(1), 0.5 * target + rows(2)])
    for number, each in enumerate(reps):
        store.put(f"states/{number}", state(each, target))
    folds = {"image": {name: f"states/{n}" for n, name in enumerate(("east", "north", "west"))}, "text": {}}
    found = sed_weights(store, folds)
    expected = similarity_weights(reps.double(), target.double(), 0.5).mean(dim=1)
    assert list(found) == ["east/sed_weight/image", "north/sed_weight/image", "west/sed_weight/image"]
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-5)
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_stale_client_weighs_less_and_a_uniform_mean_weighs_all_alike(tmp_path: Path) -> None:
    store, target = FolderStore(tmp_path), rows(0)
    store.put("a", state(rows(1), target, mean=True))
    store.put("b", state(rows(2), target, mean=True, weight=0.5))
    found = sed_weights(store, {"text": {"fresh": "a", "stale": "b"}})
    assert found == {"fresh/sed_weight/text": pytest.approx(2 / 3), "stale/sed_weight/text": pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    "content",
    [b"", b"sed", b"\xff" * 80, (2).to_bytes(8, "little") + b"{}", (9).to_bytes(8, "little") + b"no json!!"],
)
def test_what_is_no_state_is_refused_by_its_key(tmp_path: Path, content: bytes) -> None:
    store = FolderStore(tmp_path)
    store.put("states/x", content)
    with pytest.raises(ArtifactCorruptError, match="states/x: not an SED state"):
        sed_weights(store, {"image": {"north": "states/x"}})


async def test_finished_rounds_are_shown_once_over_restarts_and_with_unreadable_states(
    world: World, tmp_path: Path
) -> None:
    caller = await world.enrol("north")
    await finish_round(world, caller, state(rows(1), rows(0)))
    board = tmp_path / "tracked" / "tensorboard" / "trial"
    for sed in (b"sed", None):
        tracking = RoundTracking(world.context, {"tensorboard": {}}, tmp_path / "tracked")
        await tracking.look()
        await tracking.look()
        if sed is not None:
            await finish_round(world, caller, sed)
            await tracking.look()
        await tracking.close()
        found = points(board)
        assert len(found) == len(set(found))
    assert {name for name, step in found if step == 1} == {
        *(f"round/{name}" for name in ("completed", "seconds", "delivered", "missing", "bytes_up", "bytes_down")),
        "server/rsum",
        "north/federated/acc1",
        *(f"north/{name}" for name in ("delivered", "bytes_up", "bytes_down", "sed_weight/image")),
    }
    assert ("round/completed", 2) in found and ("north/sed_weight/image", 2) not in found


async def test_a_tracker_that_hangs_delays_no_round(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    def hang(*_: object) -> None:
        let_go.wait(60)

    monkeypatch.setattr("fedafd.tracking.tensorboard.TensorBoard.log", hang)
    caller = await world.enrol("north")
    tracking = RoundTracking(world.context, {"tensorboard": {}}, tmp_path / "tracked")
    await finish_round(world, caller, b"sed")
    await tracking.look()
    began = time.monotonic()
    round_id = await finish_round(world, caller, b"sed")
    await tracking.look()
    assert (await world.round(round_id)).state == "completed"
    assert time.monotonic() - began < 50
    let_go.set()
    await tracking.close()


async def test_only_who_coordinates_shows_rounds(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked: list[str] = []

    async def look(_: object) -> None:
        looked.append("looked")
        raise RuntimeError("away")

    monkeypatch.setattr(RoundTracking, "look", look)
    tracking = RoundTracking(world.context, {}, tmp_path)

    async def run_until(true: Callable[[], bool]) -> None:
        task = asyncio.ensure_future(track_rounds(tracking, world.coordinator, seconds=0.01))
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert true()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await run_until(lambda: looked == [])
    await world.coordinate()
    assert world.coordinator.leading
    with capture_logs() as logs:
        await run_until(lambda: len(looked) > 1)
    assert {each["reason"] for each in logs if each["event"] == "round_tracking.failed"} == {"away"}


def test_the_trackers_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {"mlflow": {"uri": "http://mlflow:5000"}, "tensorboard": {}}
    for name, value in (
        ("DATABASE_URL", "sqlite+aiosqlite:///x.db"),
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("STORE__URL", str(tmp_path)),
        ("INTERNAL_TOKEN", "0123456789abcdef0123456789abcdef"),
        ("TRACKING", json.dumps(given)),
    ):
        monkeypatch.setenv(f"FEDAFD_AGGREGATOR_{name}", value)
    assert load_settings().tracking == given


async def test_an_aggregator_shows_the_rounds_that_are_over_before_it_began(tmp_path: Path, redis_url: str) -> None:
    database_url = f"sqlite+aiosqlite:///{tmp_path / 'x.db'}"
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    async with database.transaction() as session:
        await add_federation(session, "trial", FederationConfig(name="trial").model_dump(mode="json"))
        (row,) = await add_rounds(session, "trial", {}, "0" * 64, 1)
        row.state, row.metrics = RoundState.COMPLETED.value, {"rsum": 7.0}
    await database.close()
    settings = AggregatorSettings(
        listen=f"127.0.0.1:{free_port()}",
        database_url=database_url,
        redis_url=redis_url,
        store={"url": str(tmp_path / "store")},
        internal_token="0123456789abcdef0123456789abcdef",
        tracking={"tensorboard": {}},
        tracking_folder=tmp_path / "tracked",
    )
    stop = asyncio.Event()
    serving = asyncio.ensure_future(serve(settings, stop))
    async with asyncio.timeout(60):
        await asyncio.to_thread(wait_until, lambda: ("server/rsum", 1) in points(tmp_path / "tracked"), "the tracker")
    stop.set()
    await serving


async def test_an_unknown_tracker_is_refused_at_the_start(tmp_path: Path) -> None:
    settings = AggregatorSettings(
        database_url="sqlite+aiosqlite:///x.db",
        redis_url="redis://127.0.0.1:1/0",
        store={"url": str(tmp_path)},
        internal_token="0123456789abcdef0123456789abcdef",
        tracking={"mlfow": {}},
    )
    with pytest.raises(ConfigurationError, match="FEDAFD_AGGREGATOR_TRACKING: 'mlfow' is not known; installed: mlflow"):
        await serve(settings, asyncio.Event())
