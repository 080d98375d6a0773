"""The control plane goes by the database's clock from its start on, and says whose clock differs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis.asyncio
from tests.control_plane.rest import in_process, settings_for

from fedafd.messaging.clock_skews import SkewTeller
from fedafd.persistence import clock
from fedafd.storage import StoreSettings


async def test_a_control_plane_that_is_off_knows_it_from_its_start_and_says_so(
    postgres_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "_wall", lambda: datetime.now(UTC) + timedelta(hours=3))
    settings = settings_for(postgres_url, StoreSettings(url=str(tmp_path / "store")), redis_url=redis_url)
    try:
        async with in_process(settings) as rest:
            # Nobody has asked it anything.
            assert abs(clock.utc_now() - datetime.now(UTC)) < timedelta(seconds=5)
            SkewTeller(redis_url, "the aggregator there (127.0.0.1:7443)").tell(20, clock.utc_now())
            status = (await rest.http.get("/status")).json()
            page = (await rest.http.get("/status")).text
        words = [finding["words"] for finding in status["findings"] if finding["cause"] == "clock"]
        assert words == [
            "the clock of the control plane is 3.0 h ahead of the database's, which rounds go by",
            "the clock of the aggregator there (127.0.0.1:7443) is 20 s ahead of the database's, which rounds go by",
        ], page
    finally:
        clock.shared_clock.forget()
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            await client.delete("fedafd:clock-skews")
