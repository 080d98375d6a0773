"""A site's own trackers: its losses and the four models, round by round, at the site only."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.agent.compared import ComparedSite
from tests.tracking.test_tensorboard import points

from fedafd.agent.baseline import advance
from fedafd.agent.benefit import benefits
from fedafd.agent.check import _tracking
from fedafd.agent.comparing import Comparing
from fedafd.agent.exit_codes import ExitCode
from fedafd.agent.findings import Level
from fedafd.agent.history import History
from fedafd.agent.outgoing import metrics_to_send
from fedafd.agent.start import prepare
from fedafd.agent.tracking import site_points
from fedafd.domain.config import SharingConfig
from fedafd.domain.errors import ConfigurationError


def follow(site: ComparedSite) -> list[dict[str, object]]:
    """One process of the agent, from its start to its end."""

    async def live() -> None:
        comparing = Comparing(site.config, site.state)
        await comparing.follow()
        await comparing.stop()

    with capture_logs() as logs:
        asyncio.run(live())
    return [dict(each) for each in logs if each["event"] == "agent.not_tracked"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> ComparedSite:
    made = ComparedSite(tmp_path_factory.mktemp("tracked"), tracking={"tensorboard": {"path": "board"}})
    made.deliver(1, follow=False)
    return made


def test_each_delivered_round_and_a_later_baseline_are_there_once_over_restarts(site: ComparedSite) -> None:
    assert follow(site) == []
    first = points(site.root / "board")
    assert ("train/loss", 1) in first
    assert ("test/alone/acc1", 1) not in first
    advance(site.config)
    site.deliver(2, follow=False)
    assert follow(site) == []
    found = points(site.root / "board")
    assert len(found) == len(set(found))
    assert {(name, step) for name, step in found} >= {*first, ("test/alone/acc1", 1), ("train/loss", 2)}
    assert {name for name, step in found if step == 1 and name.startswith("test/")} == {
        "test/personalized/acc1",
        "test/own/acc1",
        "test/global/acc1",
        "test/alone/acc1",
        *(
            f"test/over_{other}/{what}"
            for other in ("local", "global", "alone")
            for what in ("difference", "standard_error")
        ),
    }


def test_points_are_those_of_the_status_and_the_loss_of_training(site: ComparedSite) -> None:
    told = site_points(site.state)[1]
    split = benefits(site.root)[0].splits["test"]
    assert told["test/personalized/acc1"] == split.values["federated"]
    assert told["test/over_global/standard_error"] == split.differences["global"].standard_error
    assert told["train/loss"] == History(site.root).rounds()[0].loss
    assert 0 < told["train/loss"] < 10


def test_what_trackers_get_of_losses_leaves_no_site() -> None:
    assert metrics_to_send({"train/loss": 1.0, "loss": 1.0}, SharingConfig()) == {}


def test_a_tracker_that_cannot_write_is_told_and_the_round_is_compared(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path, tracking={"tensorboard": {"path": "board"}})
    (site.root / "board").write_text("in the way", encoding="utf-8")
    site.deliver(1, follow=False)
    (told,) = follow(site)
    assert "board" in str(told["reason"]) and "goes on without it" in str(told["reason"])
    assert len(History(site.root).rounds()) == 1


def test_an_unknown_tracker_is_refused_at_the_start_and_by_the_check(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path, tracking={"tensorbord": {}})
    with pytest.raises(ConfigurationError, match="tracking: 'tensorbord' is not known; installed: .*tensorboard"):
        asyncio.run(prepare(site.config, site.state, asyncio.Event(), token=None))
    (found,) = _tracking(site.config)
    assert (found.level, found.exit_code) == (Level.ERROR, ExitCode.CONFIGURATION)
    fine = site.config.model_copy(update={"tracking": {"tensorboard": {}}})
    assert [each.level for each in _tracking(fine)] == [Level.FINE]
    assert _tracking(fine.model_copy(update={"tracking": {}})) == []
