"""A site does no more for its federation than its policy allows, and both sides are told."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.scene import Scene, play

from fedafd.agent import connection as connection_module
from fedafd.agent.check import _unpinned
from fedafd.agent.policy import as_taken
from fedafd.agent.policy_words import policy_words
from fedafd.artifacts.folders import pack_folder
from fedafd.artifacts.manifest import Manifest, Shard
from fedafd.domain.config import EncoderConfig, PolicyConfig, parse_agent_config, parse_config, parse_federation_config
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.domain.leaving import LeaveReason
from fedafd.domain.process_errors import PolicyRefusedError
from fedafd.learning.bundle_size import bundle_facts
from fedafd.learning.sample_encoder import SampleEncoder

TINY = EncoderConfig(architecture="resnet", options={"hidden_sizes": [4], "depths": [1], "embedding_size": 4})
SET = Manifest(shards=(Shard(split="train", name="a.parquet", sha256="a" * 64, size_bytes=9, num_rows=40),)).to_bytes()
OTHER_SET = Manifest(
    shards=(Shard(split="train", name="b.parquet", sha256="b" * 64, size_bytes=9, num_rows=7),)
).to_bytes()
Played = Callable[[Scene], Awaitable[None]]


def policy(**values: Any) -> PolicyConfig:
    return parse_config(PolicyConfig, values, "policy")


def tiny_bundle(**changes: Any) -> bytes:
    encoder = SampleEncoder(TINY, Modality.IMAGE, dim=8)
    files = encoder.to_files()
    described = json.loads(files["config.json"])
    described["encoder"] |= changes
    described["backbone"] = changes.get("options", described["backbone"])
    return pack_folder(files | {"config.json": json.dumps(described).encode()})


def site(tmp_path: Path, policy: dict[str, Any], **task: Any) -> Scene:
    async def scenario(scene: Scene) -> None:
        scene.policy = policy
        scene.server.assign(**task)
        await scene.run(scene.settled)

    return play(tmp_path, scenario)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_WAIT_SECONDS", 0.01)


def closed_hours() -> list[str]:
    """A span of an hour that is over by the machine's clock, and not near."""
    hour = datetime.now(UTC).astimezone().hour
    return [f"{(hour + 3) % 24:02}:00-{(hour + 4) % 24:02}:00"]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"max_bundle_bytes": 3}, LeaveReason.POLICY_ENCODER),
        ({"max_download_bytes": 20}, LeaveReason.POLICY_DOWNLOAD),
        ({"encoders": ["vit"]}, LeaveReason.POLICY_ENCODER),
        ({"max_epochs": 4}, LeaveReason.POLICY_EFFORT),
        ({"allow": {"alignment.mode": "off"}}, LeaveReason.POLICY_VALUES),
        ({"allow": {"accept_personalized_models": [False]}}, LeaveReason.POLICY_VALUES),
        ({"public_sets": ["0" * 64]}, LeaveReason.POLICY_PUBLIC_SET),
        ({"approve": "configuration"}, LeaveReason.POLICY_APPROVAL),
        ({"hours": []}, LeaveReason.POLICY_HOURS),
        ({"hours": closed_hours()}, LeaveReason.POLICY_HOURS),
    ],
)
def test_what_the_policy_refuses_is_refused_before_anything_is_downloaded(
    tmp_path: Path, told: dict[str, Any], reason: LeaveReason
) -> None:
    scene = site(tmp_path, told)
    assert scene.server.left == [reason]
    assert not scene.server.downloads and not scene.server.commits and not scene.trainer.tasks


def pretrained(name: str) -> dict[str, Any]:
    """What a server says for a site's model to start from `name`."""
    return {"image_encoder": {"architecture": "resnet", "pretrained": name}}


@pytest.mark.parametrize("told", [{}, {"pretrained": ["organisation/allowed", "organisation/other@v1"]}])
@pytest.mark.parametrize(
    "named",
    [
        "organisation/model",
        "organisation/other",
        "organisation/other@v2",
        "organisation/allowed/../other",
        "Organisation/allowed",
        "organisation/allowed@../x",
        "allowed",
        "/etc",
        "/nowhere/at/all",
        "~/weights",
        "./organisation/allowed",
        "..",
        "\x1b[2J",
    ],
)
def test_pretrained_weights_that_a_server_names_are_not_loaded_unless_the_site_has_them_in_its_policy(
    tmp_path: Path, told: dict[str, Any], named: str
) -> None:
    if told and named == "organisation/other":
        return  # at the site's revision
    scene = site(tmp_path, told, **pretrained(named))
    assert scene.server.left == [LeaveReason.POLICY_PRETRAINED]
    assert not scene.server.downloads and not scene.server.commits and not scene.trainer.tasks


def test_a_folder_of_the_site_is_never_taken_from_a_server(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with pytest.raises(ConfigurationError, match="a folder is never taken from a federation"):
        policy(pretrained=str(folder))
    scene = site(tmp_path, {}, **pretrained(str(folder)))
    assert scene.server.left == [LeaveReason.POLICY_PRETRAINED] and not scene.trainer.tasks


@pytest.mark.parametrize(
    ("allowed", "named", "loaded"),
    [
        ("a/b", "a/b", "a/b"),
        ("a/b", "a/b@v2", "a/b@v2"),
        ("a/b@v1", "a/b", "a/b@v1"),
        ("a/b@v1", "a/b@v1", "a/b@v1"),
    ],
)
def test_an_allowed_name_is_loaded_at_the_sites_revision(tmp_path: Path, allowed: str, named: str, loaded: str) -> None:
    scene = site(tmp_path, {"pretrained": allowed, "approve": []}, **pretrained(named))
    assert len(scene.server.commits) == 1
    assert [task.config.image_encoder.pretrained for task in scene.trainer.tasks] == [loaded]


def test_a_site_with_an_encoder_of_its_own_loads_what_its_file_names(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.more = {"image_encoder": {"architecture": "resnet", "pretrained": "own/model@v1"}}
        scene.server.assign(**pretrained("organisation/model"))
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    assert len(scene.server.commits) == 1 and not scene.server.left


def test_weights_of_a_modality_that_the_site_does_not_have_are_no_matter(tmp_path: Path) -> None:
    scene = site(tmp_path, {}, text_encoder={"architecture": "bert", "pretrained": "organisation/model"})
    assert len(scene.server.commits) == 1 and not scene.server.left


def test_the_site_reads_what_it_could_put_into_its_file(tmp_path: Path) -> None:
    config = parse_agent_config({"aggregator": "a:1", "kind": "image", "data": {"adapter": "shapes"}})
    for named, told in (
        ("organisation/model", "policy: {pretrained: [organisation/model]}"),
        ("/weights", "a folder is never taken from a federation"),
    ):
        federation = parse_federation_config({"name": "f"} | pretrained(named))
        with pytest.raises(PolicyRefusedError, match=re.escape(told)) as refused:
            as_taken(config, federation)
        assert refused.value.reason is LeaveReason.POLICY_PRETRAINED and named in str(refused.value)
        assert "image_encoder" in str(refused.value)


def test_a_policy_that_allows_it_all_changes_nothing(tmp_path: Path) -> None:
    told = {
        "max_bundle_bytes": 10**9,
        "max_download_bytes": 10**9,
        "max_bundle_parameters": 10**6,
        "max_epochs": 5,
        "max_minutes": 60,
        "max_rounds": 1,
        "encoders": "resnet",
        "allow": {"averaging": "off", "client.local_epochs": [1, 5], "image_encoder.lora.rank": 4},
        "hours": ["00:00-24:00"],
    }
    scene = site(tmp_path, told, bundle=tiny_bundle())
    assert len(scene.server.commits) == 1 and not scene.server.left


def test_an_encoder_that_is_too_large_is_not_loaded(tmp_path: Path) -> None:
    scene = site(tmp_path, {"max_bundle_parameters": 10}, bundle=tiny_bundle())
    assert scene.server.left == [LeaveReason.POLICY_ENCODER] and not scene.trainer.tasks


def test_a_bundle_counts_as_the_encoder_that_it_describes_however_few_weights_it_has(tmp_path: Path) -> None:
    small, vast = tmp_path / "small", tmp_path / "vast"
    small.write_bytes(tiny_bundle())
    vast.write_bytes(tiny_bundle(options={"hidden_sizes": [4096], "depths": [2], "layer_type": "basic"}))
    assert 0 < bundle_facts(small).num_parameters < 10_000
    assert bundle_facts(vast).num_parameters > 10**8


def test_a_bundle_that_describes_more_than_the_machine_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedafd.learning.building.memory_bytes", lambda: 2**28)
    bundle = tiny_bundle(options={"hidden_sizes": [4096], "depths": [2], "layer_type": "basic"})
    scene = site(tmp_path, {"max_bundle_parameters": 10**12}, bundle=bundle)
    assert scene.server.left == [LeaveReason.POLICY_ENCODER] and not scene.trainer.tasks


def test_a_bundle_of_another_architecture_than_the_configuration_names_is_not_loaded(tmp_path: Path) -> None:
    bundle = tiny_bundle(architecture="convnext", options={"hidden_sizes": [4], "depths": [1], "num_stages": 1})
    scene = site(tmp_path, {"encoders": ["resnet"]}, bundle=bundle)
    assert scene.server.left == [LeaveReason.POLICY_ENCODER] and not scene.trainer.tasks


def test_a_bundle_that_is_none_is_refused_where_a_policy_looks_into_it(tmp_path: Path) -> None:
    scene = site(tmp_path, {"max_bundle_parameters": 10**9}, bundle=b"no bundle")
    assert scene.server.left == [LeaveReason.POLICY_ENCODER] and not scene.trainer.tasks


def test_training_ends_when_its_minutes_are_over(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy, scene.trainer.seconds = {"max_minutes": 0.001}, 15.0
        scene.server.assign()
        await scene.run(scene.settled)

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.POLICY_EFFORT] and not scene.server.commits
    assert len(scene.trainer.tasks) == 1


def test_training_ends_when_its_minutes_are_over_also_where_the_server_does_not_answer(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy, scene.trainer.seconds = {"max_minutes": 0.02}, 8.0
        scene.server.assign()

        def is_left() -> bool:
            if scene.trainer.started.is_set():
                scene.server.surprises["ReportProgress"] = [grpc.StatusCode.UNAVAILABLE] * 100
            return scene.settled()

        await scene.run(is_left)

    scene = play(tmp_path, scenario)
    assert scene.server.left == [LeaveReason.POLICY_EFFORT] and not scene.server.commits


def test_data_are_used_for_no_more_rounds_than_allowed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy = {"max_rounds": 1}
        scene.server.assign(1)
        await scene.run(scene.settled)
        scene.server.assign(2)
        await scene.run(lambda: bool(scene.server.left))

    scene = play(tmp_path, scenario)
    assert len(scene.server.commits) == 1 and scene.server.left == [LeaveReason.POLICY_ROUNDS]


@pytest.mark.parametrize("averaging", ["off", "weights"])
def test_weights_that_a_task_brings_are_taken_only_where_the_configuration_averages(
    tmp_path: Path, averaging: str
) -> None:
    """A site whose policy says `averaging: off` had its model's weights replaced by whatever the server sent."""

    async def scenario(scene: Scene) -> None:
        scene.policy = {"allow": {"averaging": averaging}}
        scene.share = {"weights": averaging == "weights"}
        scene.server.assign(1, averaging=averaging, client={"vocabulary": "public"})
        planted = scene.server.put(b"planted", "weights/image-group")
        scene.server.task.train.averaged_weights.append(planted)
        await scene.run(lambda: bool(scene.server.commits))

    scene = play(tmp_path, scenario)
    (task,) = scene.trainer.tasks
    taken = averaging == "weights"
    assert (set(task.averages) == {"image-group"}) is taken
    assert (scene.server.put(b"planted", "").sha256 in {sha256 for sha256, _ in scene.server.downloads}) is taken


@pytest.mark.parametrize("takes", [False, True])
def test_a_model_leaves_only_where_the_configuration_takes_it_too(tmp_path: Path, takes: bool) -> None:
    async def scenario(scene: Scene) -> None:
        scene.policy = {"allow": {"accept_personalized_models": takes}}
        scene.share = {"personalized_model": True}
        scene.server.assign(1, accepts_model=True, accept_personalized_models=takes)
        await scene.run(lambda: bool(scene.server.commits))

    scene = play(tmp_path, scenario)
    assert scene.trainer.tasks[0].share_model is takes
    assert any(upload.startswith("personalized-model") for upload in scene.server.uploads) is takes


def test_no_number_and_no_name_of_the_policy_leaves_the_site(tmp_path: Path) -> None:
    scene = site(tmp_path, {"encoders": ["secret-encoder"], "max_bundle_bytes": 987654321})
    assert scene.server.left == [LeaveReason.POLICY_ENCODER]
    assert not any(planted in message for message in scene.server.wire for planted in (b"secret", b"987654321"))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"allow": {"alignment.mood": "off"}}, "allow: alignment.mood: no key of federation.yaml; here are"),
        ({"allow": {"alignment": "off"}}, "is a block; name a key in it"),
        ({"allow": {"alignment.mode": "bold"}}, "allow: alignment.mode: "),
        ({"allow": {"cohort.size": 3}}, "no site is told this key"),
        ({"allow": {"distillation.weight_cap": 0.5}}, "no site is told this key"),
        ({"hours": "6-22"}, "is no span of hours, such as 22:00-06:00"),
        ({"hours": "06:00-06:00"}, "is empty"),
        ({"hours": "06:00-24:30"}, "ends after 24:00"),
        ({"time_zone": "Mars/Base"}, "no time zone"),
        ({"time_zone": "../../etc/passwd"}, "no time zone"),
        ({"public_sets": "abc"}, "no SHA-256"),
        ({"pretrained": "/models"}, "is no id on a hub"),
        ({"pretrained": ["a/b", "a/b@v1"]}, "is there twice"),
        ({"approve": "everything"}, "approve.0"),
        ({"max_epochs": 0}, "max_epochs"),
    ],
)
def test_a_policy_that_says_nothing_sensible_is_refused_with_its_key(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told.replace(".", r"\.")):
        policy(**values)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1439), st.integers(1, 1440), st.integers(0, 1439))
def test_a_span_of_hours_is_open_from_its_start_to_before_its_end(start: int, length: int, minute: int) -> None:
    end = (start + length) % 1440
    if end == start:
        return
    span = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    assert policy(hours=span, time_zone="UTC").is_open(now) == ((minute - start) % 1440 < length % 1440)


def test_hours_are_those_of_the_time_zone() -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert policy(hours="14:00-15:00", time_zone="Europe/Berlin").is_open(noon)
    assert not policy(hours="12:00-13:00", time_zone="Europe/Berlin").is_open(noon)


def test_everything_that_a_policy_may_say_has_words() -> None:
    whole = {
        "approve": ["configuration"],
        "max_download_bytes": 1,
        "max_bundle_bytes": 1,
        "max_bundle_parameters": 1,
        "max_epochs": 1,
        "max_minutes": 1,
        "max_rounds": 1,
        "encoders": ["bert"],
        "pretrained": ["a/b@v1"],
        "public_sets": ["0" * 64],
        "allow": {"averaging": "off"},
        "hours": ["01:00-02:00"],
    }
    assert set(whole) | {"time_zone"} == set(PolicyConfig.model_fields)
    for key, value in whole.items():
        new = set(policy_words(policy(**{key: value}))) - set(policy_words(PolicyConfig()))
        assert len(new) == 1, key
    assert len(list(policy_words(PolicyConfig()))) == 1, "pretrained weights that a server names"


def test_a_check_names_the_weights_that_a_hub_may_change() -> None:
    values = {"aggregator": "a:1", "kind": "image", "data": {"adapter": "shapes"}}
    own = {"image_encoder": {"architecture": "resnet", "pretrained": "a/own"}}
    config = parse_agent_config(values | own | {"policy": {"pretrained": ["a/pinned@v1", "a/newest"]}})
    assert _unpinned(config) == ["a/newest", "a/own"]
    folder = {"image_encoder": {"architecture": "resnet", "pretrained": "/models/own"}}
    assert _unpinned(parse_agent_config(values | folder)) == []


def test_an_agent_yaml_without_a_policy_refuses_no_hour() -> None:
    config = parse_agent_config({"aggregator": "a:1", "kind": "image", "data": {"adapter": "shapes"}})
    assert config.policy == PolicyConfig() and config.policy.is_open(datetime.now(UTC))
