"""A server that names weights on a hub, or a folder of the site, for the sites' models: real processes, real rounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.federation import FEDERATION, KINDS, Trial, embedded
from tests.learning.fake_hub import FakeHub, hub_of
from tests.learning.test_pinned_weights import NEW, OLD, saved

from fedafd.datasets import load_public_data, write_public_set
from fedafd.local.supervisor import Supervisor

pytestmark = pytest.mark.timeout(400)
IMAGE = "organisation/image"
FEW = {"num_train": 16, "num_val": 8, "num_test": 8}
FROM_SERVER = {"image_encoder": None, "text_encoder": None}


def site(**more: Any) -> dict[str, Any]:
    return {"data": {"adapter": "shapes", "options": FEW}} | more


@pytest.fixture
def sites() -> dict[str, dict[str, Any]]:
    return {"images": site(**FROM_SERVER), "texts": site(**FROM_SERVER), "pairs": site()}


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[tuple[FakeHub, FakeHub]]:
    """The server's and the sites': the same models, each with its own list of what was asked."""
    old, new = saved(tmp_path / "old", "image", 0.25), saved(tmp_path / "new", "image", 0.75)
    repositories = {IMAGE: {OLD: old, NEW: new, "main": new}}
    with hub_of(repositories) as of_server, hub_of(repositories) as of_sites:
        yield of_server, of_sites


def test_a_site_loads_what_its_own_policy_names_and_nothing_else_that_a_server_names(
    tmp_path: Path,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    sites: dict[str, dict[str, Any]],
    hubs: tuple[FakeHub, FakeHub],
) -> None:
    of_server, of_sites = hubs
    folder = saved(tmp_path / "of-the-site", "text", 0.5)
    values = FEDERATION | {
        "image_encoder": {"architecture": "resnet", "pretrained": IMAGE, "image_size": 32},
        "text_encoder": {"architecture": "bert", "pretrained": str(folder), "max_tokens": 8},
    }
    write_public_set(load_public_data("shapes", None, FEW | {"seed": 5}), tmp_path / "public")
    for name, value in of_server.environment(tmp_path / "cache-of-server").items():
        monkeypatch.setenv(name, value)
    # Cold starts: the libraries read the hub's address when they are imported.
    with Supervisor(tmp_path / "logs") as supervisor:
        trial = Trial(supervisor, embedded(tmp_path, redis_url.removesuffix("/0") + "/10"), tmp_path, sites=sites)
        trial.rest.create(values)
        trial.rest.push_public_set(tmp_path / "public")
        trial.invite_all()
        for name, value in of_sites.environment(tmp_path / "cache-of-sites").items():
            monkeypatch.setenv(name, value)
        agents = {name: trial.start_agent(name) for name in KINDS}
        trial.until(lambda: all(c["state"] == "enrolled" for c in trial.rest.clients()), "the agents", seconds=90)
        trial.rest.start_rounds(1)
        first = {p["client"]: p for p in trial.rest.wait_for_round(1, lambda _: None, seconds=120)["participations"]}
        assert {name: (part["state"], part["reason_code"]) for name, part in first.items()} == {
            "images": ("dropped", "policy-pretrained"),
            "texts": ("dropped", "policy-pretrained"),
            "pairs": ("delivered", None),
        }
        assert of_sites.asked == [] and of_server.asked
        assert "policy.pretrained in its agent.yaml" in str(first["images"]["reason"])
        assert f"policy: {{pretrained: [{IMAGE}]}}" in agents["images"].log.read_text()
        assert "a folder is never taken from a federation" in agents["texts"].log.read_text()

        sites["images"] |= {"policy": {"pretrained": [f"{IMAGE}@{OLD}"]}}
        trial.kill(agents["images"])
        trial.start_agent("images")
        trial.rest.start_rounds(1)
        second = {p["client"]: p for p in trial.rest.wait_for_round(2, lambda _: None, seconds=120)["participations"]}
        assert [second[name]["state"] for name in ("images", "pairs", "texts")] == ["delivered", "delivered", "dropped"]
        assert of_sites.asked and all(OLD in path for path in of_sites.asked), of_sites.asked
        trial.rest.close()
