"""A server that names files of the site in place of hashes, or more than its disk holds: no file is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.agent.scene import Scene, play

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.state import StateDirectory
from fedafd.domain.errors import InvalidRequestError
from fedafd.domain.leaving import LeaveReason
from fedafd.proto.v1 import types_pb2


@pytest.mark.parametrize("is_absolute", [True, False])
@pytest.mark.parametrize("place", ["representations", "shard", "bundle", "weights"])
def test_a_path_in_place_of_a_hash_touches_no_file(tmp_path: Path, place: str, is_absolute: bool) -> None:
    private = tmp_path / "private" / "patient.png"
    private.parent.mkdir()
    private.write_bytes(b"a picture")

    async def scenario(scene: Scene) -> None:
        scene.share = {"weights": True}
        averaging: dict[str, Any] = {"averaging": "weights", "client": {"vocabulary": "public"}}
        scene.server.assign(**(averaging if place == "weights" else {}))
        task = scene.server.task.train
        name = str(private) if is_absolute else f"../../{private.relative_to(tmp_path)}"
        scene.server.blobs[name] = b"planted"
        planted = types_pb2.Artifact(sha256=name, size_bytes=7, purpose="representations")
        if place == "representations":
            task.global_representations.CopyFrom(planted)
        elif place == "shard":
            task.public_set[1].CopyFrom(planted)
        elif place == "bundle":
            planted.purpose = "encoder-bundle/image"
            task.encoder_bundles[0].CopyFrom(planted)
        else:
            planted.purpose = "weights/image"
            task.averaged_weights.append(planted)
        await scene.run(lambda: bool(scene.server.left))

    scene = play(tmp_path, scenario)
    assert private.read_bytes() == b"a picture"
    assert [path.name for path in private.parent.iterdir()] == ["patient.png"]
    assert scene.server.left == [LeaveReason.TASK_NOT_UNDERSTOOD]
    assert scene.trainer.tasks == []


def test_a_task_that_does_not_fit_on_the_disk_is_left_before_any_of_it_comes(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.assign()
        scene.server.task.train.global_representations.size_bytes = 1 << 60
        await scene.run(lambda: bool(scene.server.left))

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.DISK_FULL]
    assert scene.server.downloads == []


@pytest.mark.parametrize("name", ["", ".", "..", "a", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "/no/such/file"])
def test_the_cache_takes_hashes_alone(tmp_path: Path, name: str) -> None:
    cache = ArtifactCache(tmp_path / "artifacts", limit_bytes=1)
    for use in (lambda: cache.find(name), lambda: cache.begin(name, 1), lambda: cache.need_room({name: 1})):
        with pytest.raises(InvalidRequestError, match="no SHA-256"):
            use()


@pytest.mark.parametrize("name", ["../../away", "/away", "a/b", "", "A", "a\n", "\x1b[2J", "a" * 64])
@pytest.mark.parametrize("whose", ["federation", "client"])
def test_a_name_that_is_none_enrols_nobody(tmp_path: Path, whose: str, name: str) -> None:
    async def scenario(scene: Scene) -> None:
        if whose == "federation":
            scene.server.federation_id = name
        else:
            scene.server.client_name = name
        with pytest.raises(InvalidRequestError, match=f"the {whose} is"):
            await scene.run(lambda: False)

    scene = play(tmp_path, scenario)
    assert StateDirectory(scene.state_dir).load_credential() is None


@pytest.mark.parametrize("credential", ["", "a b", "a\nX-Other: b", "\x1b[2J", "\u00e9", "a" * 100_000])
def test_a_credential_that_no_call_can_carry_enrols_nobody(tmp_path: Path, credential: str) -> None:
    """It was kept, and ended the agent with a trace at each start from then on."""

    async def scenario(scene: Scene) -> None:
        scene.server.credential = credential
        with pytest.raises(InvalidRequestError, match="gave a credential of"):
            await scene.run(lambda: False)

    scene = play(tmp_path, scenario)
    assert StateDirectory(scene.state_dir).load_credential() is None
