"""`policy.max_rounds` counts what left the site, whatever a server calls its rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.scene import Scene, play

from fedafd.domain.leaving import LeaveReason


@pytest.mark.parametrize("ids", [("a", "b", "a"), ("a", "a", "a")], ids=["by-turns", "the-same"])
def test_a_server_that_uses_numbers_and_ids_of_rounds_again_gets_no_more_of_them(
    tmp_path: Path, ids: tuple[str, ...]
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy = {"max_rounds": 2}
        for seed, round_id in enumerate(("a", "b", *ids), start=1):
            scene.server.assign(1)
            scene.server.task.train.round_id, scene.server.task.train.seed = round_id, seed
            before = len(scene.server.commits) + len(scene.server.left)
            await scene.run(lambda ended=before: len(scene.server.commits) + len(scene.server.left) > ended)  # type: ignore[misc]

    scene = play(tmp_path, scenario)
    sent = {upload.request.sha256 for upload in scene.server.uploads.values()}
    assert len(sent) == 2 and LeaveReason.POLICY_ROUNDS in scene.server.left


def test_a_result_that_has_left_already_is_delivered_again_beyond_the_allowed_rounds(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy = {"max_rounds": 1}
        scene.server.break_uploads = 1_000
        scene.server.assign(1)
        await scene.run(lambda: bool(scene.server.uploads) and scene.server.break_uploads < 1_000)
        scene.server.break_uploads = 0
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    assert len(scene.server.commits) == 1 and not scene.server.left and len(scene.trainer.tasks) == 1
