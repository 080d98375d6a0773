"""What an agent says that leaves its round because it cannot start: it is all in the ledger."""

from __future__ import annotations

from pathlib import Path

from tests.agent.scene import Scene, play

from fedafd.agent.leaving import leave_open_round
from fedafd.agent.ledger import read_sent
from fedafd.agent.state import StateDirectory
from fedafd.domain.config import parse_agent_config
from fedafd.domain.errors import DataError
from fedafd.domain.leaving import LeaveReason


def test_the_calls_of_an_agent_that_leaves_a_round_at_its_start_are_counted(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.run(lambda: bool(scene.server.small_calls["FetchTask"]))
        before = scene.server.small_calls.copy(), len(list(read_sent(scene.state_dir)))
        scene.server.assign(1)
        values = {"aggregator": scene.server.address, "kind": "image", "data": {"adapter": "shapes"}}
        config = parse_agent_config(values | {"state_dir": str(scene.state_dir)})
        await leave_open_round(config, StateDirectory(scene.state_dir), DataError("no sample"))
        made = scene.server.small_calls - before[0]
        entries = list(read_sent(scene.state_dir))[before[1] :]
        assert [entry.what for entry in entries] == ["leave", "calls"]
        assert entries[1].detail == ", ".join(f"{count} {name}" for name, count in sorted(made.items()))

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.DATA_UNUSABLE]
