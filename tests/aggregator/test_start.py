"""What an aggregator's settings ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedafd.aggregator.settings import load_settings
from fedafd.domain.errors import ConfigurationError


def test_redis_is_asked_for_by_name_before_anything_is_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"DATABASE_URL": f"sqlite:///{tmp_path}/none.db", "STORE__URL": str(tmp_path), "INTERNAL_TOKEN": "t" * 20}
    for name, value in given.items():
        monkeypatch.setenv(f"FEDAFD_AGGREGATOR_{name}", value)
    with pytest.raises(ConfigurationError, match="FEDAFD_AGGREGATOR_REDIS_URL: must be set"):
        load_settings()
