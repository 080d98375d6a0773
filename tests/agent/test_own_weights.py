"""A site that has the global encoder's checkpoint downloads what was trained, and nothing of what is frozen."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.agent.fake_aggregator import TOKEN
from tests.agent.scene import Scene, play

from fedafd.agent import connection as connection_module
from fedafd.agent.cache import ArtifactCache
from fedafd.artifacts.blocks import block_digests, block_length
from fedafd.artifacts.bundle_heads import BundleHead, bundle_head
from fedafd.artifacts.folders import pack_folder, unpack_folder
from fedafd.domain.config import EncoderConfig
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import Modality
from fedafd.domain.leaving import LeaveReason
from fedafd.learning.sample_encoder import SampleEncoder

DIM = 256
KIND = {"architecture": "resnet", "image_size": 32}
HEAD_BYTES = 128 << 10
"""Asked for to learn where the tensors lie."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_WAIT_SECONDS", 0.01)


def checkpoint(folder: Path, seed: int = 0, width: int = 128) -> Path:
    """Of a ResNet of two to three megabytes."""
    torch.manual_seed(seed)
    sizes: Any = {"embedding_size": 32, "hidden_sizes": [64, width], "depths": [2, 3], "layer_type": "basic"}
    transformers.ResNetModel(transformers.ResNetConfig(**sizes)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}')
    return folder


def bundle_of(folder: Path, **changes: Any) -> bytes:
    """What the server sends of an encoder that it made from a checkpoint and trained since."""
    config = EncoderConfig(pretrained=str(folder), **(KIND | changes))
    torch.manual_seed(7)
    encoder = SampleEncoder(config, Modality.IMAGE, dim=DIM)
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    dtype = torch.float16 if config.trainable == "lora" else torch.float32
    return pack_folder(encoder.to_files(trained_in=dtype))


def first_scene(
    tmp_path: Path,
    bundle: bytes,
    trainable: str,
    site: dict[str, Any],
    policy: dict[str, Any] | None = None,
    prepare: Callable[[Scene], None] = lambda _: None,
) -> Scene:
    """The first round of a site that has never had a bundle; `site` is of agent.yaml."""

    async def scenario(scene: Scene) -> None:
        scene.more, scene.policy = site, policy or {}
        encoder = KIND | {"trainable": trainable}
        scene.server.assign(1, bundle=bundle, blob_bytes=5, image_encoder=encoder, embedding_dim=DIM)
        prepare(scene)
        await scene.run(scene.settled, seconds=60)

    return play(tmp_path, scenario)


def first_round(tmp_path: Path, bundle: bytes, trainable: str, **site: Any) -> int:
    """How many bytes of the bundle come to a site that has never had one."""
    scene = first_scene(tmp_path, bundle, trainable, site)
    (path,) = scene.trainer.tasks[-1].encoder_bundles.values()
    assert path.read_bytes() == bundle
    assert len(scene.server.commits) == 1
    assert not list(path.parent.glob("*.part")), "nothing is left of what was lent"
    return scene.server.sent_bytes - len(b"manifest" + b"shard" + b"reps 1")


LORA = pytest.param("lora", marks=pytest.mark.skipif(find_spec("peft") is None, reason="the extra `lora` is missing"))


@pytest.mark.parametrize("trainable", ["head", LORA])
def test_only_what_was_trained_comes(trainable: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "weights")
    bundle = bundle_of(folder, trainable=trainable)
    whole = first_round(tmp_path / "without", bundle, trainable)
    assert whole == len(bundle)
    came = first_round(tmp_path / "with", bundle, trainable, base_weights={"image": str(folder)})
    assert came < HEAD_BYTES + 0.25 * len(bundle)


def test_the_checkpoint_of_the_sites_own_encoder_is_not_tried_unasked_since_the_server_would_see_it(
    tmp_path: Path,
) -> None:
    folder = checkpoint(tmp_path / "weights")
    bundle = bundle_of(folder, trainable="head")
    own = KIND | {"pretrained": str(folder), "trainable": "head"}
    assert first_round(tmp_path, bundle, "head", image_encoder=own) == len(bundle)


def test_a_header_that_is_longer_than_what_is_asked_for_first_is_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedafd.agent.own_bases._FIRST_BYTES", 700)
    folder = checkpoint(tmp_path / "weights")
    bundle = bundle_of(folder, trainable="head")
    assert first_round(tmp_path, bundle, "head", base_weights={"image": str(folder)}) < 0.25 * len(bundle)


def test_files_without_content_before_the_weights_are_no_reason_to_ask_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedafd.agent.own_bases._FIRST_BYTES", 700)
    files = unpack_folder(bundle_of(checkpoint(tmp_path / "weights"), trainable="head"))
    bundle = pack_folder({f"a/{number}": b"" for number in range(1000)} | files)
    own = {"base_weights": {"image": str(tmp_path / "weights")}}
    scene = first_scene(tmp_path, bundle, "head", own)
    assert len(scene.server.downloads) < 20


def test_other_weights_of_the_same_shape_save_nothing_and_the_log_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(checkpoint(tmp_path / "theirs"), trainable="head")
    other = {"image": str(checkpoint(tmp_path / "ours", seed=1))}
    assert len(bundle) <= first_round(tmp_path, bundle, "head", base_weights=other) <= len(bundle) + HEAD_BYTES
    told = capsys.readouterr().out
    assert "agent.own_weights_not_used" in told and "less than half" in told
    assert "agent.own_weights_used" not in told


def test_a_server_that_guesses_a_part_of_weights_does_not_see_whether_it_guessed_right(tmp_path: Path) -> None:
    """It has another checkpoint, puts a tensor of the site's into it, and would see that its blocks do not come."""
    bundle = bundle_of(checkpoint(tmp_path / "theirs"), trainable="head")
    ours = bundle_of(checkpoint(tmp_path / "ours", seed=1), trainable="head")
    head = bundle_head(bundle, len(bundle))
    assert isinstance(head, BundleHead)
    guessed = max((place.span for place in head.tensors.values()), key=lambda span: span.end - span.start)
    assert guessed.end - guessed.start < 0.4 * len(bundle)
    bundle = bundle[: guessed.start] + ours[guessed.start : guessed.end] + bundle[guessed.end :]
    came = first_round(tmp_path, bundle, "head", base_weights={"image": str(tmp_path / "ours")})
    assert came == len(bundle) + HEAD_BYTES


def test_an_older_bundle_of_other_weights_is_no_reason_not_to_look_at_the_sites_own(tmp_path: Path) -> None:
    """As after a move to another federation, or of this one to another checkpoint."""
    first = bundle_of(checkpoint(tmp_path / "first"), trainable="head")
    second = bundle_of(checkpoint(tmp_path / "second", seed=1), trainable="head")

    async def scenario(scene: Scene) -> None:
        scene.more = {"base_weights": {"image": str(tmp_path / "second")}}
        encoder = KIND | {"trainable": "head"}
        for number, bundle in enumerate((first, second), start=1):
            scene.server.sent_bytes = 0
            scene.server.commits.clear()
            scene.server.assign(number, bundle=bundle, image_encoder=encoder, embedding_dim=DIM)
            await scene.run(scene.settled, token=TOKEN if number == 1 else None, seconds=60)

    scene = play(tmp_path, scenario)
    assert scene.server.sent_bytes < HEAD_BYTES + 0.25 * len(second)


def test_an_aggregator_that_cannot_describe_a_bundle_is_not_said_to_have_another_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(checkpoint(tmp_path / "weights"), trainable="head")

    def old(scene: Scene) -> None:
        scene.server.describes = None

    own = {"base_weights": {"image": str(tmp_path / "weights")}}
    assert first_scene(tmp_path / "site", bundle, "head", own, prepare=old).server.commits
    told = capsys.readouterr().out
    assert "it cannot be told" in told and "another checkpoint" not in told


def test_what_a_killed_agent_had_goes_on_and_nothing_is_left_of_what_it_took_from(tmp_path: Path) -> None:
    bundle = bundle_of(checkpoint(tmp_path / "weights"), trainable="head")

    def killed(scene: Scene) -> None:
        folder = scene.state_dir / "artifacts"
        folder.mkdir(parents=True)
        (folder / f"{sha256_of(bundle)}.part").write_bytes(bundle[:-100_000])
        (folder / f"base-{sha256_of(bundle)}.part").write_bytes(b"half written")

    own = {"base_weights": {"image": str(tmp_path / "weights")}}
    scene = first_scene(tmp_path / "site", bundle, "head", own, prepare=killed)
    (path,) = scene.trainer.tasks[-1].encoder_bundles.values()
    assert path.read_bytes() == bundle
    assert scene.server.sent_bytes < HEAD_BYTES + 110_000
    assert not list(path.parent.glob("*.part"))


def test_without_room_for_the_bundle_twice_on_the_disk_it_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(checkpoint(tmp_path / "weights"), trainable="head")
    monkeypatch.setattr(ArtifactCache, "room_beside", lambda *_: len(bundle) - 1)  # how full a disk is, is not ours
    came = first_round(tmp_path, bundle, "head", base_weights={"image": str(tmp_path / "weights")})
    assert came == len(bundle)
    assert "no room" in capsys.readouterr().out


def test_the_limit_of_a_download_counts_what_comes(tmp_path: Path) -> None:
    bundle = bundle_of(checkpoint(tmp_path / "weights"), trainable="head")
    policy = {"max_download_bytes": len(bundle) // 2}
    own = {"base_weights": {"image": str(tmp_path / "weights")}}
    assert first_scene(tmp_path / "with", bundle, "head", own, policy).server.commits
    without = first_scene(tmp_path / "without", bundle, "head", {}, policy)
    assert without.server.left == [LeaveReason.POLICY_DOWNLOAD]
    assert not without.server.downloads


def test_digests_that_lie_bring_no_more_down_than_the_limit_says(tmp_path: Path) -> None:
    bundle = bundle_of(checkpoint(tmp_path / "weights"), trainable="head")
    other = bundle_of(checkpoint(tmp_path / "others", seed=1), trainable="head")
    policy = {"max_download_bytes": len(bundle) // 2}
    own = {"base_weights": {"image": str(tmp_path / "weights")}}

    def lie(scene: Scene) -> None:
        scene.server.describes = lambda digests: block_digests([bundle], block_length(len(bundle)))

    scene = first_scene(tmp_path / "site", other, "head", own, policy, lie)
    assert scene.server.left == [LeaveReason.POLICY_DOWNLOAD]
    assert scene.server.sent_bytes < len(bundle) // 2
    assert not list((tmp_path / "site").rglob("base-*")), "what was made for the download is gone"


@pytest.mark.parametrize("wrong", ["not there", "of other sizes", "damaged"])
def test_weights_that_cannot_be_used_are_told_and_all_is_downloaded(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(checkpoint(tmp_path / "theirs"), trainable="head")
    folder = tmp_path / "ours"
    if wrong == "of other sizes":
        checkpoint(folder, width=24)
    elif wrong == "damaged":
        (checkpoint(folder) / "model.safetensors").write_bytes(b"\x10")
    came = first_round(tmp_path, bundle, "head", base_weights={"image": str(folder)})
    assert len(bundle) - 100_000 <= came <= len(bundle) + HEAD_BYTES
    told = capsys.readouterr()
    assert "agent.own_weights_not_used" in told.out + told.err
    assert str(folder) in told.out + told.err


def test_an_encoder_that_is_trained_whole_is_downloaded_whole(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "weights")
    bundle = bundle_of(folder)
    assert first_round(tmp_path, bundle, "all", base_weights={"image": str(folder)}) == len(bundle)


@pytest.mark.parametrize("bundle", [b"no bundle" * 50_000, b"", b"\0" * 400_000], ids=["text", "empty", "zeros"])
def test_what_is_no_bundle_costs_no_more_than_before(bundle: bytes, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "weights")
    bundle = bundle or b"x"
    came = first_round(tmp_path, bundle, "head", base_weights={"image": str(folder)})
    assert len(bundle) <= came <= len(bundle) + HEAD_BYTES
