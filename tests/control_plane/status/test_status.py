"""The status of a service whose parts are real: Redis with its queue, the rows, the store."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from tests.control_plane.rest import Rest, in_process, settings_for
from tests.servers import redis_server

from fedafd.domain.kinds import StageKind
from fedafd.domain.states import RoundState
from fedafd.messaging.broker_queue import QUEUE
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.lease_repository import COORDINATOR_LEASE, acquire_lease
from fedafd.persistence.models import utc_now
from fedafd.persistence.outbox_repository import mark_sent, unsent_messages
from fedafd.persistence.participation_repository import invite_cohort
from fedafd.persistence.round_repository import get_round_by_number, transition_round
from fedafd.persistence.stage_repository import add_stage
from fedafd.storage import StoreSettings


@pytest.fixture
async def with_redis(tmp_path: Path, redis_url: str) -> AsyncIterator[Rest]:
    """A federation whose first round was just queued, with an aggregator that leads."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.delete(QUEUE)
    async with served(tmp_path, redis_url) as rest:
        yield rest


def served(folder: Path, redis_url: str) -> Any:
    settings = settings_for(f"sqlite:///{folder}/s.db", StoreSettings(url=str(folder / "store")), redis_url=redis_url)
    return in_process(settings)


async def lead(rest: Rest, folder: Path) -> None:
    async with rest.context.database.transaction() as session:
        await acquire_lease(session, COORDINATOR_LEASE, "a", timedelta(minutes=5))
    await rest.federation()
    await rest.public_set(folder)
    await rest.enrol("north")
    assert (await rest.http.post("/federations/trial/rounds", json={"count": 1})).status_code == 201


async def move(rest: Rest, state: RoundState) -> None:
    async with rest.context.database.transaction() as session:
        row = await get_round_by_number(session, "trial", 1)
        assert await transition_round(session, row, state, token=1, actor="test", started_at=utc_now())


async def announce(rest: Rest, *, seconds_ago: float, sent: bool) -> None:
    """The stage that prepares the round, announced so long ago."""
    async with rest.context.database.transaction() as session:
        row = await get_round_by_number(session, "trial", 1)
        stage = await add_stage(session, row.id, StageKind.PREPARE, {})
        assert stage is not None
        stage.last_progress_at = stage.created_at = utc_now() - timedelta(seconds=seconds_ago)
        (message,) = await unsent_messages(session)
        message.created_at = stage.created_at
        if sent:
            await mark_sent(session, [message.id])


async def causes(rest: Rest) -> list[str]:
    return [each["cause"] for each in (await rest.http.get("/status")).json()["findings"]]


async def test_a_message_that_stays_in_the_broker_tells_that_no_distiller_runs(
    with_redis: Rest, tmp_path: Path, redis_url: str
) -> None:
    await lead(with_redis, tmp_path)
    await move(with_redis, RoundState.PREPARING)
    await announce(with_redis, seconds_ago=40, sent=True)
    assert await causes(with_redis) == ["not-begun"]
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.lpush(QUEUE, "a message")
        status = (await with_redis.http.get("/status")).json()
        await client.delete(QUEUE)
    assert re.search(r"none is running \(for [45]\d s\); start one: `fedafd distiller`", status["summary"]), status


async def test_a_message_that_does_not_leave_tells_that_redis_is_away(with_redis: Rest, tmp_path: Path) -> None:
    await lead(with_redis, tmp_path)
    await move(with_redis, RoundState.PREPARING)
    await announce(with_redis, seconds_ago=40, sent=False)
    assert await causes(with_redis) == ["redis"]


async def test_a_redis_that_stopped_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as url:
        pass
    async with served(tmp_path, url) as rest:
        await lead(rest, tmp_path)
        finding = (await rest.http.get("/status")).json()["findings"][0]
    assert (finding["cause"], finding["level"]) == ("redis", "trouble")
    assert "refused" in finding["words"].lower() or "connect" in finding["words"].lower()


async def test_what_an_operator_did_and_what_sites_lack_is_told(with_redis: Rest, tmp_path: Path) -> None:
    await lead(with_redis, tmp_path)
    await with_redis.http.put("/drain", json={"reason": "upgrade"})
    assert await causes(with_redis) == ["drained", "drained"]
    await with_redis.http.delete("/drain")
    assert await causes(with_redis) == ["starting"]
    await move(with_redis, RoundState.PREPARING)
    await move(with_redis, RoundState.COLLECTING)
    async with with_redis.context.database.transaction() as session:
        row = await get_round_by_number(session, "trial", 1)
        north = await get_client(session, "trial", "north")
        await invite_cohort(session, row.id, [north])
    assert await causes(with_redis) == ["sites"]
    async with with_redis.context.database.transaction() as session:
        (await get_client(session, "trial", "north")).last_seen_at = utc_now() - timedelta(minutes=5)
    assert await causes(with_redis) == ["no-site-online"]
