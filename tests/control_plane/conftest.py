"""The REST API on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.control_plane.rest import Rest, in_process, settings_for

from fedafd.storage import StoreSettings


@pytest.fixture
async def rest(database_url: str, tmp_path: Path) -> AsyncIterator[Rest]:
    async with in_process(settings_for(database_url, StoreSettings(url=str(tmp_path / "store")))) as rest:
        yield rest
