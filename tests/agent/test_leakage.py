"""A site audits what it delivered last, with its own data, and is told in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.agent.compared import ComparedSite
from typer.testing import CliRunner

from fedafd.agent.leakage import audited
from fedafd.cli.main import app
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind


def test_the_last_delivery_is_attacked_with_the_sites_own_data(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path, ClientKind.TEXT)
    with pytest.raises(DataError, match="no round is delivered yet"):
        audited(site.config)
    site.deliver(1, follow=False)
    done = CliRunner().invoke(app, ["audit", "leakage", "--config", str(site.file), "--json", "--resamples", "100"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["round"], found["num_members"], found["num_others"]) == (1, 40, 40)
    for each in (found["membership"]["text"], found["labels"]):
        assert -1 <= each["low"] <= each["high"] <= 1
    told = CliRunner().invoke(app, ["audit", "leakage", "--config", str(site.file), "--resamples", "100"]).output
    assert "membership from text representations: advantage" in told and "distribution of classes" in told
    for path in (site.root / "artifacts").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no longer among the downloads"):
        audited(site.config)
