"""What a person at a site approves is what was shown, and nothing of it was hidden."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.agent.scene import Scene, play
from tests.agent.test_policy import OTHER_SET, SET
from typer.testing import CliRunner

from fedafd.agent.approval import read_approved, read_proposal
from fedafd.cli.main import app
from fedafd.domain.errors import DataError
from fedafd.domain.leaving import LeaveReason


def test_a_public_set_waits_for_a_yes_and_is_used_after_it(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy = {"approve": "public-set"}
        scene.server.assign(1, public_set=SET)
        await scene.run(lambda: bool(scene.server.left))
        # Only the manifest came: what it holds is told, and nothing of it is used.
        assert scene.server.downloads == [(scene.server.put(SET, "").sha256, 0)]
        told = CliRunner().invoke(app, ["agent", "approve", "--state-dir", str(scene.state_dir), "--show"])
        assert told.exit_code == 0 and "train 40" in told.output and scene.server.put(SET, "").sha256 in told.output
        assert not read_approved(scene.state_dir).public_sets
        said = CliRunner().invoke(app, ["agent", "approve", "--state-dir", str(scene.state_dir)], input="y\n")
        assert said.exit_code == 0 and read_proposal(scene.state_dir) is None
        scene.server.assign(2, public_set=SET)
        await scene.run(lambda: bool(scene.server.commits))
        scene.server.assign(3, public_set=OTHER_SET)
        await scene.run(lambda: len(scene.server.left) == 2)

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.POLICY_APPROVAL] * 2 and len(scene.server.commits) == 1


def test_each_change_of_the_configuration_waits_for_a_yes_and_is_shown_as_a_difference(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy = {"approve": ["configuration"]}
        scene.server.assign(1)
        await scene.run(lambda: bool(scene.server.left))
        approve = ["agent", "approve", "--yes", "--state-dir", str(scene.state_dir)]
        assert 'name: not set -> "f"' in CliRunner().invoke(app, approve).output
        scene.server.assign(2)
        await scene.run(lambda: bool(scene.server.commits))
        scene.server.assign(3, client={"local_epochs": 7})
        await scene.run(lambda: len(scene.server.left) == 2)
        shown = CliRunner().invoke(app, [*approve[:-1], str(scene.state_dir)]).output
        assert "client.local_epochs: 5 -> 7" in shown and "name" not in shown.replace("approved", "")
        scene.server.assign(4, client={"local_epochs": 7})
        await scene.run(lambda: len(scene.server.commits) == 2)
        assert "nothing waits" in CliRunner().invoke(app, approve).output

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.POLICY_APPROVAL] * 2


def options(**changes: Any) -> dict[str, Any]:
    """A configuration whose encoder of images has these options."""
    return {"image_encoder": {"architecture": "resnet", "options": changes}}


LONG = "x" * 5000
HIDDEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a block in place of a key with a dot": (options(**{"a.b": "good"}), options(a={"b": "good"})),
    "a block beside a key with a dot": (
        options(**{"a": {"b": "one"}, "a.b": "shown"}),
        options(**{"a": {"b": "two"}, "a.b": "shown"}),
    ),
    "the end of a long value": (options(a=LONG + "good"), options(a=LONG + "evil")),
    "the middle of a long list": (options(a=["y"] * 900 + ["good"] + ["y"] * 90), options(a=["y"] * 900 + ["evil"])),
    "yes in place of 1": (options(a=1), options(a=True)),
    "null in place of nothing": (options(b=1), options(b=1, a=None)),
    "blanks and marks in a key": (options(**{"a\u202e b": 1}), options(**{"a\u202e b": 2})),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_no_change_of_a_configuration_is_hidden_from_who_approves_it(tmp_path: Path, what: str) -> None:
    first, second = HIDDEN[what]

    async def scenario(scene: Scene) -> None:
        scene.policy = {"approve": ["configuration"]}
        approve = ["agent", "approve", "--yes", "--state-dir", str(scene.state_dir)]
        scene.server.assign(1, **first)
        await scene.run(lambda: bool(scene.server.left))
        assert CliRunner().invoke(app, approve).exit_code == 0
        scene.server.assign(2, **second)
        await scene.run(lambda: len(scene.server.left) == 2)
        lines = CliRunner().invoke(app, [*approve, "--show"]).output.splitlines()
        changes = [line for line in lines if " -> " in line]
        assert changes
        for line in changes:
            before, _, after = line.partition(": ")[2].partition(" -> ")
            assert before != after, line
            assert len(line) < 700 and line.isascii()

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.POLICY_APPROVAL] * 2 and not scene.server.commits


def test_what_was_shown_is_approved_and_nothing_that_came_since(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy = {"approve": ["configuration", "public-set"]}
        approve = ["agent", "approve", "--state-dir", str(scene.state_dir)]
        scene.server.assign(1, public_set=SET)
        await scene.run(lambda: bool(scene.server.left))
        shown = CliRunner().invoke(app, [*approve, "--show"]).output
        (told,) = re.findall("its ID: ([0-9a-f]{16})", shown)
        assert json.loads(CliRunner().invoke(app, [*approve, "--output", "json"]).output)["id"] == told
        scene.server.assign(2, public_set=OTHER_SET)
        await scene.run(lambda: len(scene.server.left) == 2)
        for form in ([], ["--output", "json"]):
            refused = CliRunner().invoke(app, [*approve, "--yes", "--id", told, *form])
            assert isinstance(refused.exception, DataError)
        assert not read_approved(scene.state_dir).public_sets
        scene.server.assign(3, public_set=SET)
        await scene.run(lambda: len(scene.server.left) == 3)
        assert CliRunner().invoke(app, [*approve, "--yes", "--id", told]).exit_code == 0
        assert list(read_approved(scene.state_dir).public_sets) == [scene.server.put(SET, "").sha256]
        assert isinstance(CliRunner().invoke(app, [*approve, "--yes", "--id", told]).exception, DataError)

    play(tmp_path, scenario)


def test_how_much_a_public_set_is_stands_in_what_its_hash_is_of(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy = {"approve": "public-set"}
        scene.server.assign(1, public_set=SET)
        scene.server.task.train.public_set[1].size_bytes = 7
        scene.server.task.train.public_set.append(scene.server.task.train.public_set[1])
        await scene.run(lambda: bool(scene.server.left))
        told = CliRunner().invoke(app, ["agent", "approve", "--state-dir", str(scene.state_dir), "--show"])
        assert "  1 files of 9 bytes in all" in told.output.splitlines()

    play(tmp_path, scenario)
