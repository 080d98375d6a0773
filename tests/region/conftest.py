"""The upper services with a public set, and the services that regions have below."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.region.world import UPPER, Services, services

from fedafd.datasets import load_public_data, write_public_set
from fedafd.persistence.federation_repository import get_federation


@dataclass
class Levels:
    above: Services
    below: Services
    public: Path


@pytest.fixture
async def levels(tmp_path: Path) -> AsyncIterator[Levels]:
    folder = tmp_path / "public-set"
    data = load_public_data("shapes", None, {"num_train": 32, "num_val": 4, "num_test": 8, "seed": 5})
    manifest = write_public_set(data, folder)
    async with services(tmp_path / "above") as above, services(tmp_path / "below") as below:
        above.store.put(f"public-sets/{manifest.sha256}/manifest.json", manifest.to_bytes())
        for shard in manifest.shards:
            above.store.put_file(f"public-sets/{manifest.sha256}/{shard.name}", folder / shard.name)
        await above.federation(**UPPER)
        async with above.database.transaction() as session:
            (await get_federation(session, "upper")).public_set_sha256 = manifest.sha256
        yield Levels(above, below, folder)
