"""An agent's process that is killed anywhere between paying for steps and keeping them never takes one unpaid."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.agent.fake_aggregator import TOKEN, FakeAggregator
from tests.end_to_end.warm import WarmProcess, keep_warm, start_warm
from tests.learning.tiny import NORMLESS_IMAGE, tiny_federation, tiny_public, tiny_server

from fedafd.agent.ledger import read_sent
from fedafd.agent.privacy_account import PRIVACY, read_account
from fedafd.artifacts.representations import encode_representations
from fedafd.datasets import PublicSet, write_public_set
from fedafd.domain.config import DpConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.leaving import LeaveReason
from fedafd.learning.privacy_accountant import Spending, epsilon_of
from fedafd.proto.v1 import aggregator_pb2 as pb

DELTA, SAMPLES, LONGEST_SECONDS = 1e-3, 40, 90.0
PLACES = ("account", "step")
FEDERATION = tiny_federation(client={"vocabulary": "public", "image": {"batch_size": 8}})


def cost(trainings: int) -> float:
    """Epsilon of so many trainings of a first round."""
    dp = DpConfig(epsilon=1000.0, delta=DELTA, samples=SAMPLES)
    steps = dp.steps_of_round(FEDERATION, ClientKind.IMAGE, is_new=True)
    return epsilon_of([Spending(1.0, dp.sampling_rate(FEDERATION.client.image.batch_size), trainings * steps)], DELTA)


class Site:
    """One state directory, whose agents die one after the other, and the aggregator that asks them to train."""

    def __init__(self, folder: Path, *, trainings: int) -> None:
        self.folder, self.state, self.server = folder, folder / "site", FakeAggregator()
        self.budget = (cost(trainings) + cost(trainings + 1)) / 2

    async def start(self) -> None:
        await self.server.start()
        _, prepared = tiny_server(FEDERATION)
        public = self.folder / "public"
        write_public_set(tiny_public(), public)
        opened = PublicSet.open(public)
        manifest = next(public.rglob("manifest.json")).read_bytes()
        shards = [next(public.rglob(Path(shard.name).name)).read_bytes() for shard in opened.manifest.shards]
        reps = encode_representations(prepared.representations, opened.manifest.sha256, FEDERATION.wire_dtype)
        put = self.server.put
        self.task: dict[str, Any] = {
            "federation_config_json": FEDERATION.sites_json(),
            "public_set_sha256": opened.manifest.sha256,
            "public_set": [put(manifest, "public-set/manifest"), *(put(each, "public-set/shard") for each in shards)],
            "global_representations": put(reps, "representations"),
            "encoder_bundles": [put(prepared.bundles[Modality.IMAGE], "encoder-bundle/image")],
        }
        values = {
            "aggregator": self.server.address,
            "kind": "image",
            "state_dir": str(self.state),
            "data": {"adapter": "shapes", "options": {"num_train": 40, "num_val": 8, "num_test": 8, "seed": 2}},
            "image_encoder": NORMLESS_IMAGE,
            "device": "cpu",
            "threads": 1,
            "share": {"metrics": False},
            "privacy": {"dp": {"epsilon": self.budget, "delta": DELTA, "samples": SAMPLES}},
        }
        (self.folder / "agent.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    def ask(self, number: int) -> None:
        self.server.set_task(train=pb.TrainTask(round_id=f"r{number}", round_number=number, seed=number, **self.task))

    def agent(self, place: str) -> WarmProcess:
        """A process of its own that dies at `place`."""
        steps = self.folder / f"steps-{place}"
        steps.unlink(missing_ok=True)
        environment = os.environ | {
            "DYING_AT": place,
            "STEPS": str(steps),
            "FEDAFD_AGENT_ENROLMENT_TOKEN": TOKEN,
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "tests.agent.dying_agent", "--config", str(self.folder / "agent.yaml")]
        started = start_warm(command, environment, self.folder / f"agent-{place}.log")
        assert started is not None
        return started

    def taken(self, place: str) -> int:
        """Steps of the agent that died there."""
        steps = self.folder / f"steps-{place}"
        return steps.stat().st_size if steps.exists() else 0


async def until(ready: Callable[[], bool], agent: WarmProcess, log: Path) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        while not ready():
            if agent.poll() is not None and not ready():
                pytest.fail(f"the agent ended; {log} says why")
            await asyncio.sleep(0.02)


async def scenario(site: Site) -> None:
    keep_warm("opacus.accountants")
    await site.start()
    site.ask(1)
    for number, place in enumerate(PLACES, start=1):
        agent = site.agent(place)
        await until(lambda agent=agent: agent.poll() is not None, agent, site.folder / f"agent-{place}.log")  # type: ignore[misc]
        assert agent.poll() == -signal.SIGKILL, (site.folder / f"agent-{place}.log").read_text(encoding="utf-8")
        entries = read_account(site.state)
        # Each training is paid for once more, and before its first step, whatever became of the one before.
        assert len(entries) == number and entries[-1].epsilon == pytest.approx(cost(number))
        assert site.taken(place) <= entries[-1].steps
    assert site.taken("account") == 0 < site.taken("step")
    # The budget has no third training in it: neither of this round nor of another.
    agent = site.agent("nowhere")
    for number in (1, 2):
        site.ask(number)
        await until(lambda n=number: len(site.server.left) == n, agent, site.folder / "agent-nowhere.log")  # type: ignore[misc]
    agent.kill()
    agent.wait(10)


@pytest.mark.timeout(400)
def test_every_kill_costs_what_was_paid_and_the_budget_ends_after_them_too(tmp_path: Path) -> None:
    async def played() -> Site:
        site = Site(tmp_path, trainings=len(PLACES))
        try:
            await scenario(site)
        finally:
            await site.server.stop()
        return site

    site = asyncio.run(played())
    assert site.server.left == [LeaveReason.POLICY_ROUNDS] * 2 and not site.server.commits
    assert site.taken("nowhere") == 0
    assert len(read_account(site.state)) == len(PLACES) and read_account(site.state)[-1].epsilon <= site.budget
    # The one that died between the two files left no entry in the ledger; the account has it all the same.
    assert sum(entry.what == PRIVACY for entry in read_sent(site.state)) == len(PLACES) - 1
