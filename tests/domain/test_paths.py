"""Relative paths follow the file that they stand in, whatever folder a process was started in; ~ is the home folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fedafd.agent.settings import load_settings
from fedafd.domain.config import parse_agent_config, read_agent_config, read_federation_config
from fedafd.domain.errors import ConfigurationError

SITE = {
    "aggregator": "h:1",
    "kind": "image",
    "data": {"adapter": "image-folder", "path": "xrays"},
    "tls": {"authorities": "ca.pem", "certificate": "../own.pem", "key": "/etc/key.pem"},
    "image_encoder": {"architecture": "resnet", "pretrained": "weights"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "site" / "weights").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "site"


def write(path: Path, values: object) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_paths_of_agent_yaml_follow_the_file(folder: Path) -> None:
    config = read_agent_config(write(folder / "agent.yaml", SITE))
    assert config.data.path == folder / "xrays"
    assert config.state_dir == folder / "fedafd-agent"
    assert config.tls is not None
    assert config.tls.authorities == folder / "ca.pem"
    assert config.tls.certificate == folder / "../own.pem"
    assert config.tls.key == Path("/etc/key.pem")
    assert config.image_encoder is not None
    assert config.image_encoder.pretrained == str(folder / "weights")


def test_a_file_named_relative_to_the_current_folder_gives_whole_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "agent.yaml", SITE)
    monkeypatch.chdir(folder.parent)
    assert read_agent_config(Path("site/agent.yaml")).state_dir == folder / "fedafd-agent"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("microsoft/resnet-50", "microsoft/resnet-50"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("weights", "{site}/weights"),
        ("./not-there-yet", "{site}/not-there-yet"),
        ("~/models/x", "{home}/models/x"),
        ("/opt/weights", "/opt/weights"),
    ],
)
def test_pretrained_is_a_folder_beside_the_file_or_a_name_on_the_hub(folder: Path, written: str, read: str) -> None:
    values = {"name": "trial", "text_encoder": {"architecture": "bigru", "pretrained": written}}
    config = read_federation_config(write(folder / "federation.yaml", values))
    assert config.text_encoder.pretrained == read.format(site=folder, home=folder.parent / "home")
    assert config.model_dump(mode="json", exclude_unset=True).keys() == {"name", "text_encoder"}


def test_a_tilde_is_the_home_folder_in_files_and_in_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder.parent / "home"
    config = read_agent_config(write(folder / "agent.yaml", SITE | {"state_dir": "~/fedafd-agent"}))
    assert config.state_dir == home / "fedafd-agent"
    monkeypatch.setenv("FEDAFD_AGENT_STATE_DIR", "~/other")
    assert load_settings().state_dir == home / "other"


def test_the_home_folder_of_nobody_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="state_dir: there is no home folder for ~nobody-of-that-name"):
        parse_agent_config(SITE | {"state_dir": "~nobody-of-that-name/x"})
