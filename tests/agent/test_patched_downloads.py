"""A bundle that changed in part comes in part: from the second round on, through cut lines, restarts and lies."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from tests.agent.scene import MIB, Scene, play

from fedafd.agent import connection as connection_module
from fedafd.artifacts.blocks import DIGEST_BYTES, block_digests
from fedafd.domain.hashing import sha256_of

FIRST = random.Random(0).randbytes(4 * MIB + 123)
SECOND = FIRST[: 2 * MIB] + random.Random(1).randbytes(40_000) + FIRST[2 * MIB + 40_000 : -5] + b"other"
CHANGED = 5 * (16 << 10)
"""SECOND's blocks that differ: three or four in the middle, and the last one."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_WAIT_SECONDS", 0.01)


def second_round(tmp_path: Path, prepare: Callable[[Scene], None] = lambda _: None) -> tuple[Scene, int]:
    """Two rounds, the second one prepared so; the scene, and how many bytes of its bundle came."""

    async def scenario(scene: Scene) -> None:
        scene.server.assign(1, bundle=FIRST)
        await scene.run(scene.settled)
        scene.server.commits.clear()
        scene.server.downloads.clear()
        scene.server.assign(2, bundle=SECOND)
        scene.server.sent_bytes = 0
        prepare(scene)
        await scene.run(scene.settled, token=None)

    scene = play(tmp_path, scenario)
    (path,) = scene.trainer.tasks[-1].encoder_bundles.values()
    assert path.read_bytes() == SECOND
    assert len(scene.server.commits) == 1
    return scene, scene.server.sent_bytes - len(b"reps 2")


def test_only_the_blocks_that_changed_come(tmp_path: Path) -> None:
    _, came = second_round(tmp_path)
    assert 40_000 < came <= CHANGED


def test_what_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    def half_is_there(scene: Scene) -> None:
        part = scene.state_dir / "artifacts" / f"{sha256_of(SECOND)}.part"
        part.write_bytes(SECOND[: 2 * MIB + 20_000])
        scene.server.surprises["DownloadArtifact"] = [grpc.StatusCode.UNAVAILABLE] * 3

    scene, came = second_round(tmp_path, half_is_there)
    assert 0 < came < CHANGED - 20_000
    assert scene.server.surprises["DownloadArtifact"] == []


def wrong(digests: bytes) -> bytes:
    """All blocks are said to be those of the first bundle."""
    assert len(digests) % DIGEST_BYTES == 0
    return block_digests([FIRST], 16 << 10)


@pytest.mark.parametrize(
    "describes",
    [None, wrong, lambda digests: digests[:-3], lambda _: b"", lambda digests: bytes(len(digests))],
    ids=["no such call", "wrong", "cut", "none", "all others"],
)
def test_an_aggregator_that_cannot_tell_or_lies_costs_a_whole_download_and_no_round(
    tmp_path: Path, describes: Callable[[bytes], bytes] | None
) -> None:
    def lie(scene: Scene) -> None:
        scene.server.describes = describes

    _, came = second_round(tmp_path, lie)
    assert len(SECOND) <= came <= 2 * len(SECOND)


def test_a_bundle_that_rotted_or_was_removed_here_is_no_base(tmp_path: Path) -> None:
    def rot(scene: Scene) -> None:
        path = scene.state_dir / "artifacts" / sha256_of(FIRST)
        path.write_bytes(b"?" + path.read_bytes()[1:])

    _, came = second_round(tmp_path, rot)
    assert came == len(SECOND)


def test_a_list_of_newest_files_that_is_damaged_is_none(tmp_path: Path) -> None:
    def damage(scene: Scene) -> None:
        (scene.state_dir / "artifacts" / "newest.json").write_text('{"encoder-bundle/image": "../../secret"')

    _, came = second_round(tmp_path, damage)
    assert came == len(SECOND)
