"""An agent whose data or agent.yaml changed: it goes on by name, or ends before it joins and says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from structlog.testing import capture_logs
from tests.agent.scene import packed_model
from tests.learning.tiny import IMAGE, tiny_federation
from typer.testing import CliRunner

from fedafd import PersonalizedModel
from fedafd.agent.check_state import check_state
from fedafd.agent.findings import Level
from fedafd.agent.main import ExitCode, run
from fedafd.agent.own_data import look_at
from fedafd.agent.saved_state import check_saved_state
from fedafd.agent.site import Site
from fedafd.agent.state import Credential, StateDirectory
from fedafd.agent.training import LocalResult, LocalTask
from fedafd.artifacts.folders import unpack_folder
from fedafd.artifacts.representations import encode_representations
from fedafd.cli.agent import agent_app
from fedafd.datasets import PublicSet, load_public_data, write_public_set
from fedafd.datasets.samples import ClientData, ImageSplit
from fedafd.domain.config import AgentConfig, parse_agent_config
from fedafd.domain.errors import StateUnusableError
from fedafd.domain.kinds import ClientKind, Modality, ParticipantKind, UploadPurpose
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.server_round import initial_server_state, prepare

COLOURS = {
    "azure": (0, 128, 255),
    "blue": (0, 0, 255),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "yellow": (255, 255, 0),
}
V1, V2, V3 = ["blue", "green", "red"], ["green", "red", "yellow"], ["azure", "blue", "green", "red"]


def draw(folder: Path, names: list[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for name in names:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(COLOURS[name]) + noise.integers(-40, 40, (16, 16, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.png")


class World:
    """A site's folder, and a federation's rounds for it, without a network."""

    def __init__(self, tmp_path: Path) -> None:
        torch.set_num_threads(1)
        self.root, self.data = tmp_path / "site", tmp_path / "pictures"
        self.state = StateDirectory(self.root)
        self.inputs = tmp_path / "inputs"
        write_public_set(
            load_public_data("shapes", None, {"num_train": 24, "num_val": 8, "num_test": 8}), tmp_path / "public"
        )
        public = PublicSet.open(tmp_path / "public")
        self.inputs.mkdir()
        for shard in public.manifest.shards:
            (path,) = (tmp_path / "public").rglob(Path(shard.name).name)
            shutil.copy(path, self.inputs / shard.sha256)
        self.manifest = public.manifest
        (path,) = (tmp_path / "public").rglob("manifest.json")
        shutil.copy(path, self.inputs / "manifest.json")
        self.samples = public.split("train")
        self.number = 0

    def config(self, **changes: Any) -> AgentConfig:
        values: dict[str, Any] = {
            "aggregator": "127.0.0.1:1",
            "kind": "image",
            "state_dir": str(self.root),
            "data": {"adapter": "image-folder", "path": str(self.data)},
            "image_encoder": IMAGE,
            "device": "cpu",
            "threads": 1,
        }
        return parse_agent_config(values | changes)

    def round(self, config: AgentConfig, **federation: Any) -> LocalResult:
        """One whole round, delivered."""
        self.number += 1
        chosen = tiny_federation(client={"local_epochs": 3, "image": {"optimizer": "adamp"}}, **federation)
        state = initial_server_state(config=chosen, captions=self.samples.captions, seed=3)
        made = prepare(config=chosen, state=state, public=self.samples, round_number=1, seed=4, device="cpu")
        reps, bundle = self.inputs / "reps", self.inputs / "bundle"
        reps.write_bytes(encode_representations(made.representations, self.manifest.sha256, chosen.wire_dtype))
        bundle.write_bytes(made.bundles[Modality.IMAGE])
        current = self.state.current_state()
        task = LocalTask(
            round_id=f"r{self.number}",
            round_number=self.number,
            seed=5,
            config=chosen,
            public_set_sha256=self.manifest.sha256,
            manifest=self.inputs / "manifest.json",
            shards=[self.inputs / shard.sha256 for shard in self.manifest.shards],
            global_representations=reps,
            encoder_bundles={Modality.IMAGE: bundle},
            previous_state=None if current is None else current[1],
            share_model=True,
        )
        result = Site(config, look_at(config)[0]).train(task, lambda *_: None)
        pending = self.state.save_pending(
            round_id=task.round_id,
            round_number=task.round_number,
            task_key=task.key(),
            metrics=result.metrics,
            num_private_samples=result.num_private_samples,
            state=result.state,
            blobs={UploadPurpose.REPRESENTATIONS: result.representations},
        )
        self.state.promote(pending)
        return result


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    ("later", "cases", "rows"),
    [
        (V2, ["classes-added", "classes-removed"], [*V1, "yellow"]),
        (V3, ["classes-added"], [*V1, "azure"]),
        (["blue", "red"], ["classes-removed"], V1),
        (V1, [], V1),
    ],
    ids=str,
)
def test_classes_that_change_between_rounds_keep_their_names(
    world: World, tmp_path: Path, later: list[str], cases: list[str], rows: list[str]
) -> None:
    draw(world.data, V1)
    world.round(world.config())
    draw(world.data, later)
    with capture_logs() as logs:
        made = world.round(world.config())
    assert [each.case for each in made.differences] == cases
    told = [entry for entry in logs if entry["event"] == "agent.state_differs"]
    assert [entry["log_level"] for entry in told if "fresh row" in entry["reason"]] == ["warning"] * cases.count(
        "classes-added"
    )
    assert len(told) == len(cases)
    assert Checkpoint.from_bytes(made.state).meta["labels"] == rows
    # What the site then uses says the names that its metrics were counted by.
    model = PersonalizedModel.from_pretrained(_unpacked(made, tmp_path / "model"))
    pictures = [(name, path) for name in later for path in sorted((world.data / "test" / name).iterdir())]
    said = model.predict([Image.open(path) for _, path in pictures])
    right = [label == name for (label, _), (name, _) in zip(said, pictures, strict=True)]
    assert 100 * sum(right) / len(right) == pytest.approx(made.metrics["federated/acc1"])
    assert made.metrics["federated/own_acc1"] == pytest.approx(made.metrics["federated/acc1"])


def _unpacked(made: LocalResult, folder: Path) -> Path:
    for path, content in unpack_folder(packed_model(made, folder.parent)).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def test_an_agent_whose_classes_were_all_replaced_ends_before_it_joins(world: World, tmp_path: Path) -> None:
    draw(world.data, ["blue", "red"])
    world.round(world.config())
    draw(world.data, ["green", "yellow"])
    with capture_logs() as logs:
        # Nobody listens at its address: joining would wait for ever.
        assert run(world.config(), token="t") is ExitCode.CONFIGURATION
    (ended,) = [entry for entry in logs if entry["event"] == "agent.ended"]
    assert ended["code"] == "state-unusable"
    for word in ("added green, yellow", "removed blue, red", "fedafd agent reset"):
        assert word in ended["reason"]


def test_an_encoder_that_changed_in_agent_yaml_ends_the_agent_and_one_that_only_reads_differently_goes_on(
    world: World,
) -> None:
    draw(world.data, V1)
    world.round(world.config())
    wide = IMAGE | {"options": IMAGE["options"] | {"hidden_sizes": [8, 24]}}  # type: ignore[operator]
    with capture_logs() as logs:
        assert run(world.config(image_encoder=wide), token="t") is ExitCode.CONFIGURATION
    assert any("hidden_sizes" in str(entry.get("reason")) for entry in logs)
    larger = world.config(image_encoder=IMAGE | {"image_size": 48})
    (differs,) = check_saved_state(larger, V1, world.state)
    assert (differs.case, differs.saved, differs.today) == ("image-size", "32", "48")
    assert findings(larger, V1) == [(Level.WARNING, differs.message)]
    assert [each.case for each in world.round(larger).differences] == ["image-size"]
    assert check_saved_state(larger, V1, world.state) == []
    assert findings(larger, V1) == [(Level.FINE, "round 3 can go on from it")]
    ((level, text),) = findings(world.config(image_encoder=wide), V1)
    assert level is Level.ERROR
    assert "fedafd agent reset" in text


def findings(config: AgentConfig, classes: list[str]) -> list[tuple[Level, str]]:
    """What `agent check` says of the saved state."""
    split = ImageSplit([], np.zeros(0, np.int64))
    data = ClientData(ClientKind.IMAGE, split, split, split, tuple(classes))
    return [(each.level, each.text) for each in check_state(config, data)]


def test_a_site_without_an_encoder_of_its_own_is_compared_when_the_federation_says_which(world: World) -> None:
    draw(world.data, V1)
    world.round(world.config())
    plain = world.config(image_encoder=None)
    assert check_saved_state(plain, V1, world.state) == []
    assert world.round(plain).differences == ()
    wide = IMAGE | {"options": IMAGE["options"] | {"hidden_sizes": [8, 24]}}  # type: ignore[operator]
    with pytest.raises(StateUnusableError, match="hidden_sizes"):
        world.round(plain, image_encoder=wide)


def test_bytes_that_are_no_state_end_the_agent_in_words(world: World) -> None:
    draw(world.data, V1)
    assert check_saved_state(world.config(), V1, world.state) == []
    for content in (b"", b"nonsense" * 9, Checkpoint(meta={"labels": 5}).to_bytes()):
        pending = world.state.save_pending(
            round_id="r",
            round_number=1,
            task_key="k",
            metrics={},
            num_private_samples=1,
            state=content,
            blobs={},
        )
        world.state.promote(pending)
        with pytest.raises(StateUnusableError, match="fedafd agent reset"):
            check_saved_state(world.config(), V1, world.state)


def test_reset_keeps_the_credential_and_the_old_state_and_the_next_round_starts_afresh(
    world: World, tmp_path: Path
) -> None:
    draw(world.data, ["blue", "red"])
    before = world.round(world.config())
    world.state.save_credential(
        Credential(
            federation_id="f",
            client_id="c" * 32,
            client_name="clinic",
            kind=ParticipantKind.IMAGE,
            secret="fedafd-client.x",
        )
    )
    file = tmp_path / "agent.yaml"
    file.write_text(json.dumps(world.config().model_dump(mode="json")))
    command = ["reset", "--config", str(file)]
    world.state.lock()
    refused = CliRunner().invoke(agent_app, command)
    assert "another agent is running" in str(refused.exception)
    world.state.unlock()
    done = CliRunner().invoke(agent_app, command)
    assert done.exit_code == 0, done.output
    (aside,) = world.root.glob("state-before-*")
    assert str(aside) in done.output.replace("\n", "")
    assert (aside / "round-1" / "state.safetensors").read_bytes() == before.state
    assert world.state.load_credential() is not None
    assert "no state yet" in CliRunner().invoke(agent_app, command).output.replace("\n", " ")
    draw(world.data, ["green", "yellow"])
    assert check_saved_state(world.config(), ["green", "yellow"], world.state) == []
    assert world.round(world.config()).differences == ()
    elsewhere = CliRunner().invoke(agent_app, [*command, "--state-dir", str(tmp_path / "nowhere")])
    assert "nothing to set aside" in elsewhere.output.replace("\n", " ")
    assert not (tmp_path / "nowhere").exists()
