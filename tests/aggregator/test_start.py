"""What an aggregator asks for before it connects to anything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fedafd.aggregator.server import serve
from fedafd.aggregator.settings import load_settings
from fedafd.domain.errors import ConfigurationError


async def test_redis_is_asked_for_before_the_database_is_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"DATABASE_URL": f"sqlite:///{tmp_path}/none.db", "STORE__URL": str(tmp_path), "INTERNAL_TOKEN": "t" * 20}
    for name, value in given.items():
        monkeypatch.setenv(f"FEDAFD_AGGREGATOR_{name}", value)
    with pytest.raises(ConfigurationError, match="FEDAFD_AGGREGATOR_REDIS_URL: must be set"):
        await serve(load_settings(), asyncio.Event())
