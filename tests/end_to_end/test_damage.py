"""What is lost or damaged in the object store is made again, or asked for again: no round is lost, no bit differs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.end_to_end.federation import FEDERATION, KINDS, Trial, embedded
from tests.end_to_end.in_process import InProcess, assert_same, pulled
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd.datasets import load_public_data, write_public_set
from fedafd.local.supervisor import Supervisor

KEEPING = FEDERATION | {"retention": {"keep_deliveries": 1}}
"""What clients sent stays for a round, to make again from it whatever else of that round is lost."""
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with LoggedSupervisor(tmp_path / "logs") as started:
        yield started


class Damage:
    """A trial whose sites can be held back, and what lies in its store."""

    def __init__(self, supervisor: Supervisor, folder: Path, redis_url: str) -> None:
        self.trial = Trial(supervisor, embedded(folder, redis_url), folder)
        self.public = folder / "public-set"
        write_public_set(
            load_public_data("shapes", None, {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5}), self.public
        )
        self.trial.rest.create(KEEPING)
        self.trial.rest.push_public_set(self.public)
        self.trial.invite_all()
        self.agents = [self.trial.start_agent(name) for name in KINDS]
        credentials = [folder / name / "credential.json" for name in KINDS]
        self.trial.until(lambda: all(path.exists() for path in credentials), "the agents", 120)

    def signal_agents(self, which: signal.Signals) -> None:
        for agent in self.agents:
            os.kill(agent.process.pid, which)

    def objects(self, number: int, purpose: str) -> list[Path]:
        """The stored objects of a round, without those that are being written."""
        place = self.trial.folder / "store" / "federations" / "trial" / "rounds" / str(number) / purpose
        return sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))

    def states(self, number: int) -> set[str]:
        return {part["state"] for part in self.trial.rest.round(number)["participations"]}

    def kinds_of_events(self) -> list[str]:
        return [event["kind"] for event in self.trial.rest.events()]


def flip(path: Path) -> None:
    """One bit in the middle, as a bad disk does it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_what_the_store_loses_or_damages_costs_no_round_and_no_bit(
    supervisor: Supervisor, tmp_path: Path, redis_url: str
) -> None:
    damage = Damage(supervisor, tmp_path, redis_url.removesuffix("/0") + "/11")
    trial, rest = damage.trial, damage.trial.rest
    try:
        # Round 1: two deliveries are damaged or lost before they are folded.
        rest.start_rounds(1)
        trial.until(lambda: rest.round(1)["state"] == "collecting", "collecting", 120)
        trial.kill(next(child for child in supervisor.children if child.name == "distiller"))
        prepared = damage.objects(1, "representations")
        trial.until(lambda: damage.states(1) == {"delivered"}, "the deliveries", 120)
        damaged, lost, _ = (path for path in damage.objects(1, "representations") if path not in prepared)
        flip(damaged)
        lost.unlink()
        trial.services.start_distiller()
        outcomes = [pulled(trial, rest.wait_for_round(1, lambda _: None, seconds=200), 1)]
        assert damage.kinds_of_events().count("delivery.lost") == 2

        # Round 2: the current version's state is lost, and everything between it and what the clients sent.
        damage.signal_agents(signal.SIGSTOP)
        for purpose in ("server-state", "sed-state"):
            for path in damage.objects(1, purpose):
                path.unlink()
        rest.start_rounds(1)
        trial.until(lambda: rest.round(2)["state"] == "collecting", "collecting", 120)
        # Then what the sites download, and the state that is distilled into.
        for path in (*damage.objects(2, "representations"), *damage.objects(2, "server-state")):
            path.unlink()
        for path in damage.objects(2, "encoder-bundle"):
            flip(path)
        damage.signal_agents(signal.SIGCONT)
        outcomes.append(pulled(trial, rest.wait_for_round(2, lambda _: None, seconds=200), 2))
        assert damage.kinds_of_events().count("artifact.unusable") >= 3
        assert damage.states(2) == {"delivered"}
    finally:
        damage.signal_agents(signal.SIGCONT)
        rest.close()
    supervisor.stop()
    calm = InProcess(KEEPING, damage.public, tmp_path / "in-process")
    for number, outcome in enumerate(outcomes, start=1):
        assert_same(outcome, calm.round(number))
