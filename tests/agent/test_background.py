"""The baseline in the background: a process of its own that stands back, and is gone when its agent is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.agent.compared import ComparedSite

from fedafd.agent import background as module
from fedafd.agent.background import Background, own_threads
from fedafd.agent.baseline import advance
from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.domain.claims import is_claimed
from fedafd.learning.cores import cores

SECONDS = 120.0
IMPATIENT = (
    "import fedafd.agent.baseline_child as child; child._stand_back = lambda: None; raise SystemExit(child.main())"
)
"""The real child, but for its standing back: on a machine that is busy with other tests it might wait for ever."""


@pytest.fixture
def site(tmp_path: Path) -> ComparedSite:
    made = ComparedSite(tmp_path, baseline="background", threads=8)
    made.deliver(1)
    return made


async def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.02)


def state_of(site: ComparedSite) -> bytes:
    path = BaselineFolder(site.root).state()[1]
    assert path is not None
    return path.read_bytes()


def environment_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"


def test_it_trains_a_round_ahead_and_tells_each(site: ComparedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMMAND", (sys.executable, "-c", IMPATIENT))
    told: list[int] = []

    async def scenario() -> None:
        background = Background(site.config, trained=told.append)
        await background.wake()
        await background.wake()
        await until(lambda: len(told) == 2 and background.process_id is None)
        await background.wake()
        assert background.process_id is None, "nothing is left"
        await background.stop()

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert told == [1, 2]
    assert BaselineFolder(site.root).done() == 2
    assert [each["event"] for each in logs].count("agent.baseline_training") == 1
    assert not any("failed" in each["event"] or "stopped" in each["event"] for each in logs)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no idle policy of its scheduler")
def test_it_gets_what_nobody_else_wants_and_its_own_threads(site: ComparedSite) -> None:
    async def scenario() -> None:
        background = Background(site.config)
        await background.wake()
        await until(lambda: background.process_id is not None)
        pid = background.process_id
        assert pid is not None
        await until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE)
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert b"OMP_NUM_THREADS=2" in environment_of(pid), "a quarter of the agent's eight"
        assert os.sched_getscheduler(0) == os.SCHED_OTHER, "the agent itself stands where it stood"
        await background.stop()
        assert gone(pid)

    asyncio.run(scenario())


@pytest.mark.parametrize(("threads", "cores", "expected"), [(None, 16, 4), (None, 2, 1), (8, 64, 2), (1, 64, 1)])
def test_its_threads_are_a_quarter_of_the_agents(threads: int | None, cores: int, expected: int) -> None:
    assert own_threads(threads, cores) == expected


def test_off_trains_nothing(tmp_path: Path) -> None:
    site = ComparedSite(tmp_path)
    site.deliver(1)

    async def scenario() -> None:
        background = Background(site.config)
        await background.wake()
        async with background.making_way():
            assert background.process_id is None

    asyncio.run(scenario())
    assert BaselineFolder(site.root).done() == 0


def test_on_a_gpu_it_makes_way_for_a_round_and_goes_on_after_it(
    site: ComparedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_on_processor", lambda _: False)

    async def scenario() -> None:
        background = Background(site.config)
        await background.wake()
        await until(lambda: background.process_id is not None)
        pid = background.process_id
        assert pid is not None
        async with background.making_way():
            assert gone(pid)
            await background.wake()
            assert background.process_id is None, "not while the round is trained"
        await until(lambda: background.process_id not in (None, pid))
        await background.stop()

    asyncio.run(scenario())


def test_on_a_processor_it_goes_on_beside_a_round(site: ComparedSite) -> None:
    async def scenario() -> None:
        background = Background(site.config)
        await background.wake()
        await until(lambda: background.process_id is not None)
        pid = background.process_id
        async with background.making_way():
            assert background.process_id == pid
        await background.stop()

    asyncio.run(scenario())


def test_a_round_beside_it_has_the_bits_that_it_has_by_itself(site: ComparedSite) -> None:
    lonely = site.train(2)

    async def scenario() -> bytes:
        background = Background(site.config)
        await background.wake()
        await until(lambda: background.process_id is not None)
        made = await asyncio.to_thread(site.train, 2)
        await background.stop()
        return made.state

    assert asyncio.run(scenario()) == lonely.state


PARENT = f"""
import asyncio, sys
from pathlib import Path
from fedafd.agent import background as module
from fedafd.agent.background import Background
from fedafd.domain.config import read_agent_config

module._COMMAND = (sys.executable, "-c", {IMPATIENT!r})

async def main():
    background = Background(read_agent_config(Path(sys.argv[1])))
    await background.wake()
    while background.process_id is None:
        await asyncio.sleep(0.01)
    print(background.process_id, file=sys.stderr, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_it_does_not_outlive_an_agent_that_is_killed_and_goes_on_to_the_same_bits(site: ComparedSite) -> None:
    site.train_for(epochs=4)
    site.deliver(2)
    command = [sys.executable, "-c", PARENT, str(site.file)]
    way = BaselineFolder(site.root).way
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as parent:
        assert parent.stderr is not None
        pid = int(parent.stderr.readline())
        ends = time.monotonic() + SECONDS
        while not list(way.glob("*/training")) and not BaselineFolder(site.root).done():
            assert time.monotonic() < ends
            time.sleep(0.005)
        parent.send_signal(signal.SIGKILL)
    while not gone(pid) or is_claimed(site.root / "baseline.lock"):
        assert time.monotonic() < ends
        time.sleep(0.01)
    # A sum has other bits on another number of threads, on some processors.
    with cores(own_threads(site.config.threads, 1)):
        advance(site.config, ahead=1)
        found = state_of(site)
        for path in BaselineFolder(site.root).folder.glob("*"):
            path.unlink()
        advance(site.config, ahead=1)
    assert found == state_of(site)


def test_it_waits_while_the_command_trains(site: ComparedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASK_AGAIN_SECONDS", 0.02)

    async def scenario() -> None:
        background = Background(site.config)
        with BaselineFolder(site.root).locked():
            await background.wake()
            await asyncio.sleep(0.2)
            assert background.process_id is None
        await until(lambda: background.process_id is not None)
        await background.stop()

    asyncio.run(scenario())


def test_what_goes_wrong_is_told_and_ends_nothing_else(site: ComparedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMMAND", (sys.executable, "-c", IMPATIENT))
    (site.state.current_folder()[1] / "model_source.json").unlink()  # type: ignore[index]

    async def scenario(run: Callable[[Background], Awaitable[None]]) -> None:
        await run(Background(site.config))

    async def run(background: Background) -> None:
        await background.wake()
        await until(lambda: background.process_id is not None)
        await until(lambda: background.process_id is None)
        await asyncio.sleep(0.05)
        await background.stop()

    with capture_logs() as logs:
        asyncio.run(scenario(run))
    (failed,) = (each for each in logs if each["event"] == "agent.baseline_failed")
    assert "left by an older agent" in failed["reason"]


def test_where_the_rounds_train_the_branch_nothing_is_left_for_the_background(tmp_path: Path) -> None:
    for alone_branch in (True, False):
        folder = tmp_path / str(alone_branch)
        folder.mkdir()
        site = ComparedSite(folder, alone_branch=alone_branch)
        site.deliver(1)
        assert Background(site.config)._left() is not alone_branch
