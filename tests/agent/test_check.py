"""`fedafd agent check` finds before joining what would fail after it, and says it in words and exit codes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.agent.test_own_weights import checkpoint
from tests.agent.test_start import broken_picture
from tests.datasets.makers import ag_news, image_folder, karpathy, picture
from tests.learning.tiny import IMAGE, TEXT
from transformers import AutoModel
from typer.testing import CliRunner

from fedafd.agent.check import SiteCheck, check_site
from fedafd.agent.check_base_weights import check_base_weights
from fedafd.agent.check_folder import check_folder
from fedafd.agent.exit_codes import ExitCode
from fedafd.agent.findings import Level
from fedafd.agent.state import Credential, StateDirectory
from fedafd.cli.main import app
from fedafd.domain.config import AgentConfig, parse_agent_config
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind, ParticipantKind

NOBODY = "127.0.0.1:1"


def agent_values(tmp_path: Path, data: dict[str, Any], kind: str = "image", **changes: Any) -> dict[str, Any]:
    return {
        "aggregator": NOBODY,
        "kind": kind,
        "state_dir": str(tmp_path / "state"),
        "data": data,
        "image_encoder": IMAGE,
        "text_encoder": TEXT,
        "device": "cpu",
        "threads": 1,
    } | changes


def distinct_folder(folder: Path) -> Path:
    for number, path in enumerate(sorted(image_folder(folder, splits=True).rglob("*.png"))):
        path.write_bytes(picture(number))
    return folder


def images(tmp_path: Path, **changes: Any) -> AgentConfig:
    folder = distinct_folder(tmp_path / "data")
    return parse_agent_config(agent_values(tmp_path, {"adapter": "image-folder", "path": str(folder)}, **changes))


def levels(check: SiteCheck) -> dict[str, Level]:
    return {each.about: each.level for each in check.findings}


@pytest.mark.parametrize("kind", ClientKind)
def test_a_good_site_is_ready_and_nothing_was_sent_or_made(tmp_path: Path, kind: ClientKind) -> None:
    made: dict[ClientKind, tuple[str, Callable[[], Path]]] = {
        ClientKind.IMAGE: ("image-folder", lambda: distinct_folder(tmp_path / "data")),
        ClientKind.TEXT: ("ag-news", lambda: ag_news(tmp_path / "data")),
        ClientKind.PAIR: ("flickr", lambda: karpathy(tmp_path / "data")),
    }
    adapter, make = made[kind]
    values = agent_values(tmp_path, {"adapter": adapter, "path": str(make())}, kind.value)
    check = check_site(parse_agent_config(values), offline=True)
    assert check.exit_code() is ExitCode.STOPPED
    told = levels(check)
    assert {"data", "device", "time", "memory", "disk", "state folder"} <= set(told)
    assert ("tokens" in told) == (kind is not ClientKind.IMAGE)
    assert not (tmp_path / "state").exists()


def test_unusable_data_end_with_4_and_are_described(tmp_path: Path) -> None:
    check = check_site(broken_picture(tmp_path), offline=True)
    assert check.exit_code() is ExitCode.DATA
    assert check.report is not None
    assert json.loads(json.dumps(check.to_dict()))["data"]["problems"]


def test_data_that_do_not_load_end_with_4_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    values = agent_values(tmp_path, {"adapter": "image-folder", "path": str(tmp_path / "nowhere")})
    check = check_site(parse_agent_config(values), offline=True)
    assert check.exit_code() is ExitCode.DATA
    assert check.report is None
    assert levels(check)["device"] is Level.FINE
    assert check.to_dict()["data"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_here_ends_with_2(tmp_path: Path) -> None:
    check = check_site(images(tmp_path, device="cuda:3"), offline=True)
    assert check.exit_code() is ExitCode.CONFIGURATION
    (told,) = [each.text for each in check.findings if each.about == "device"]
    assert "cuda:3" in told and "device: auto or cpu" in told


def test_an_encoder_that_cannot_be_built_ends_with_2(tmp_path: Path) -> None:
    check = check_site(images(tmp_path, image_encoder={"architecture": "no-such-net"}), offline=True)
    assert check.exit_code() is ExitCode.CONFIGURATION


def told_of_base_weights(**named: str) -> tuple[Level, str]:
    values = {"aggregator": NOBODY, "kind": "image", "data": {"adapter": "shapes"}, "base_weights": named}
    (told,) = check_base_weights(parse_agent_config(values))
    assert told.exit_code is ExitCode.STOPPED, "a round needs none"
    return told.level, told.text


def test_base_weights_are_looked_at(tmp_path: Path) -> None:
    check = check_site(images(tmp_path, base_weights={"image": str(tmp_path / "nowhere")}), offline=True)
    assert levels(check)["base weights"] is Level.WARNING
    assert check.exit_code() is ExitCode.STOPPED


def test_base_weights_that_can_be_read_are_fine_and_those_of_a_hub_are_not_looked_for(tmp_path: Path) -> None:
    level, text = told_of_base_weights(image=str(checkpoint(tmp_path / "here")))
    assert level is Level.FINE and "here: can be read" in text
    level, text = told_of_base_weights(image="org/model")
    assert level is Level.NOTE and "on the hub, whichever revision is its newest then" in text
    assert "newest" not in told_of_base_weights(image="org/model@v1")[1]


def truncate(folder: Path) -> None:
    file = checkpoint(folder) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def without_a_shard(folder: Path) -> None:
    checkpoint(folder)
    AutoModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="500KB")
    (folder / "model.safetensors").unlink()
    next(folder.glob("model-00002*")).unlink()


BAD_WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (lambda folder: None, "no such folder"),
    "empty": (Path.mkdir, "the folder needs"),
    "cut off": (truncate, "damaged or was not fetched whole"),
    "without its configuration": (lambda folder: (checkpoint(folder) / "config.json").unlink(), "config.json"),
    "without one of its files": (without_a_shard, "model-00002"),
}


@pytest.mark.parametrize("fault", BAD_WEIGHTS)
def test_base_weights_that_cannot_be_read_are_a_warning(tmp_path: Path, fault: str) -> None:
    make, words = BAD_WEIGHTS[fault]
    make(tmp_path / "weights")
    level, text = told_of_base_weights(image=str(tmp_path / "weights"))
    assert level is Level.WARNING
    assert words in text and "downloaded whole" in text


def test_base_weights_of_a_modality_that_the_site_has_not_are_a_warning() -> None:
    level, text = told_of_base_weights(text="org/model")
    assert level is Level.WARNING and "text: is not used" in text


def test_an_aggregator_that_does_not_answer_ends_with_5_and_only_if_asked(tmp_path: Path) -> None:
    config = images(tmp_path)
    assert check_site(config).exit_code() is ExitCode.UNREACHABLE
    assert check_site(config, offline=True).exit_code() is ExitCode.STOPPED


def test_warnings_count_only_where_they_are_asked_to(tmp_path: Path) -> None:
    config = images(tmp_path)
    train = tmp_path / "data" / "train" / "cat" / "0.png"
    (tmp_path / "data" / "test" / "cat" / "0.png").write_bytes(train.read_bytes())
    check = check_site(config, offline=True)
    assert check.exit_code() is ExitCode.STOPPED
    assert check.exit_code(strict=True) is ExitCode.WARNINGS


def test_texts_that_lose_their_end_and_unknown_words_are_told(tmp_path: Path) -> None:
    folder = ag_news(tmp_path / "data")
    rows = [f'{n % 2 + 1},"strange{n} words{n} never{n} seen{n}","before{n}"' for n in range(12)]
    (folder / "test.csv").write_text("\n".join(rows) + "\n")
    config = parse_agent_config(agent_values(tmp_path, {"adapter": "ag-news", "path": str(folder)}, "text"))
    (told,) = [each for each in check_site(config, offline=True).findings if each.about == "tokens"]
    assert told.level is Level.WARNING
    short = agent_values(
        tmp_path, {"adapter": "ag-news", "path": str(folder)}, "text", text_encoder=TEXT | {"max_tokens": 4}
    )
    (told,) = [each for each in check_site(parse_agent_config(short), offline=True).findings if each.about == "tokens"]
    assert "texts cut at 4 tokens: 100 %" in told.text


def folder_findings(config: AgentConfig) -> list[tuple[Level, str]]:
    return [(each.level, each.text) for each in check_folder(config) if each.about == "state folder"]


def test_a_state_folder_of_another_kind_is_an_error(tmp_path: Path) -> None:
    config = parse_agent_config(agent_values(tmp_path, {"adapter": "shapes"}))
    credential = Credential(
        federation_id="f", client_id="c", client_name="clinic", kind=ParticipantKind.TEXT, secret="s"
    )
    StateDirectory(config.state_dir).save_credential(credential)
    ((level, text),) = folder_findings(config)
    assert level is Level.ERROR
    assert "kind text" in text
    right = config.model_copy(update={"kind": ClientKind.TEXT})
    assert folder_findings(right) == [(Level.FINE, f"{config.state_dir}: enrolled as clinic, no round yet")]


def test_an_agent_at_work_is_told_and_not_disturbed(tmp_path: Path) -> None:
    config = parse_agent_config(agent_values(tmp_path, {"adapter": "shapes"}))
    state = StateDirectory(config.state_dir)
    state.lock()
    ((level, text),) = folder_findings(config)
    assert level is Level.FINE
    assert "an agent is at work on it" in text
    state.unlock()
    assert "at work" not in folder_findings(config)[0][1]


def test_a_state_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    ((level, _),) = folder_findings(parse_agent_config(agent_values(tmp_path, {"adapter": "shapes"})))
    assert level is Level.ERROR


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_state_folder_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o500)
    ((level, text),) = folder_findings(parse_agent_config(agent_values(tmp_path, {"adapter": "shapes"})))
    assert level is Level.ERROR
    assert "permission denied" in text


def run_command(tmp_path: Path, values: dict[str, Any], *arguments: str) -> tuple[int, str]:
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(values))
    runner = CliRunner(env={"FORCE_COLOR": "1", "TERM": "dumb"})  # a terminal of 80 columns
    result = runner.invoke(app, ["agent", "check", "--config", str(tmp_path / "agent.yaml"), *arguments])
    return result.exit_code, result.stdout


def test_the_command_prints_tables_of_80_columns_and_writes_its_files(tmp_path: Path) -> None:
    folder = distinct_folder(tmp_path / "data")
    (folder / "train" / "cat" / "0.png").write_bytes(b"broken")
    values = agent_values(tmp_path, {"adapter": "image-folder", "path": str(folder)})
    written = tmp_path / "check.json", tmp_path / "sheet.png"
    code, text = run_command(tmp_path, values, "--offline", "--json", str(written[0]), "--sheet", str(written[1]))
    assert code == 4
    assert max(len(line) for line in text.splitlines() if not line.startswith("contact sheet")) <= 80
    assert "train/cat/0.png: not a readable image" in " ".join(text.split())
    assert json.loads(written[0].read_text())["exit_code"] == 4
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_what_it_writes_of_private_samples_is_for_its_owner_and_goes_behind_no_link(tmp_path: Path) -> None:
    """A shared folder, such as /tmp, is a usual place for it; others may have put a link there, or a file."""
    values = agent_values(tmp_path, {"adapter": "image-folder", "path": str(distinct_folder(tmp_path / "data"))})
    written = tmp_path / "check.json", tmp_path / "sheet.png"
    linked = tmp_path / "linked"
    linked.write_text("as it was")
    for path in written:
        path.symlink_to(linked)
    before = os.umask(0)
    try:
        for _ in ("links", "files that are there"):
            run_command(tmp_path, values, "--offline", "--json", str(written[0]), "--sheet", str(written[1]))
            assert [stat.S_IMODE(path.lstat().st_mode) for path in written] == [0o600, 0o600]
            for path in written:
                path.chmod(0o666)
    finally:
        os.umask(before)
    assert linked.read_text() == "as it was"


def test_a_site_that_is_enrolled_is_told_to_go_on_and_asked_for_no_token(tmp_path: Path) -> None:
    folder = distinct_folder(tmp_path / "data")
    values = agent_values(tmp_path, {"adapter": "image-folder", "path": str(folder)})
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(values))
    command = ["agent", "check", "--offline", "--config", str(tmp_path / "agent.yaml")]
    assert "Ready to join." in (before := CliRunner().invoke(app, command).output)
    assert "--token TOKEN" in before
    StateDirectory(tmp_path / "state").save_credential(
        Credential(federation_id="f", client_id="c", client_name="n", kind=ParticipantKind.IMAGE, secret="s")
    )
    after = CliRunner().invoke(app, command).output
    assert "Ready to go on." in after
    assert "--token" not in after


def test_the_command_spends_no_token(tmp_path: Path) -> None:
    values = agent_values(tmp_path, {"adapter": "shapes", "options": {"num_train": 20, "num_val": 16, "num_test": 16}})
    code, text = run_command(tmp_path, values)
    assert code == 5
    assert "nothing listens there" in " ".join(text.split())
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("below", ["", "state", "red/state"])
def test_a_state_folder_within_the_data_is_refused(tmp_path: Path, below: str) -> None:
    config = images(tmp_path, state_dir=str(tmp_path / "data" / below))
    check = check_site(config, offline=True)
    assert check.exit_code() is ExitCode.CONFIGURATION
    assert any("lies in the folder of the data" in each.text for each in check.findings)


def test_a_state_folder_that_is_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere" / "at-all")
    check = check_site(images(tmp_path, state_dir=str(tmp_path / "dead")), offline=True)
    assert check.exit_code() is ExitCode.CONFIGURATION
    assert any("dead is no folder; set state_dir to one" in each.text for each in check.findings)


@pytest.mark.parametrize("flag", ["--json", "--sheet"])
def test_a_place_that_cannot_be_written_is_refused_before_the_long_look(tmp_path: Path, flag: str) -> None:
    (tmp_path / "agent.yaml").write_text("nothing that could be looked at")
    os.mkfifo(tmp_path / "pipe")
    for place, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "x", "no folder"), (tmp_path / "pipe", "pipe")):
        command = ["agent", "check", "--config", str(tmp_path / "agent.yaml"), flag, str(place)]
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, ConfigurationError)
        assert words in str(result.exception) and str(place) in str(result.exception)


@pytest.mark.parametrize("name", ["authorities", "certificate"])
def test_a_tls_file_that_is_missing_is_told_offline_too(tmp_path: Path, name: str) -> None:
    tls = {name: str(tmp_path / "none.pem")} | ({"key": str(tmp_path / "key")} if name == "certificate" else {})
    check = check_site(parse_agent_config(agent_values(tmp_path, {"adapter": "shapes"}, tls=tls)), offline=True)
    assert check.exit_code() is ExitCode.CONFIGURATION
    assert any(each.about == "TLS" and "none.pem" in each.text for each in check.findings)


@pytest.mark.parametrize("name", ["x" * 300, "new/" + "x" * 300, "/".join(["x" * 200] * 30)])
def test_a_state_folder_whose_name_is_too_long_is_an_error(tmp_path: Path, name: str) -> None:
    check = check_site(images(tmp_path, state_dir=str(tmp_path / name)), offline=True)
    assert check.exit_code() is ExitCode.CONFIGURATION
    assert any(each.about == "state folder" and "too long" in each.text for each in check.findings)
