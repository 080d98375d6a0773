"""An object store that is away while a round runs costs the round its seconds, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.end_to_end.federation import FEDERATION, Trial, embedded
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd.cli.demo_processes import Supervisor
from fedafd.datasets import load_public_data, write_public_set

pytestmark = pytest.mark.timeout(300)
AWAY_SECONDS = 8.0


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with LoggedSupervisor(tmp_path / "logs") as started:
        yield started


def test_a_store_that_is_away_in_preparing_and_collecting_fails_no_round(
    supervisor: Supervisor, tmp_path: Path, redis_url: str
) -> None:
    """The share that the store lies on is unmounted for 8 s, first before the first stage reads, then at the upload."""
    trial = Trial(supervisor, embedded(tmp_path, redis_url.removesuffix("/0") + "/9"), tmp_path)
    store, elsewhere = tmp_path / "store", tmp_path / "unmounted"

    def unmount_for_a_while() -> None:
        store.rename(elsewhere)
        time.sleep(AWAY_SECONDS)
        elsewhere.rename(store)

    try:
        write_public_set(
            load_public_data("shapes", None, {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5}),
            tmp_path / "public-set",
        )
        trial.rest.create(FEDERATION)
        trial.rest.push_public_set(tmp_path / "public-set")
        trial._tokens["texts"] = trial.rest.invite("texts", "text")
        trial.start_agent("texts")
        trial.until(lambda: all(c["state"] == "enrolled" for c in trial.rest.clients()), "the agent", 120)
        trial.rest.start_rounds(1)
        unmount_for_a_while()
        trial.until(lambda: trial.rest.round(1)["state"] == "collecting", "collecting", 120)
        trial.until(lambda: trial.rest.round(1)["participations"][0]["state"] != "invited", "training", 60)
        unmount_for_a_while()
        answer = trial.rest.wait_for_round(1, lambda _: None, seconds=200)
        assert answer["state"] == "completed"
        kinds = [event["kind"] for event in trial.rest.events()]
        assert "stage.failed" not in kinds
        assert "stage.lost" not in kinds
    finally:
        trial.rest.close()
