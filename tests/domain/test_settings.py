"""Settings from variables and from a folder of secret files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from fedafd.agent.settings import AgentSettings
from fedafd.agent.settings import load_settings as agent
from fedafd.aggregator.settings import AggregatorSettings, load_settings
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.control_plane.settings import load_settings as control_plane
from fedafd.distiller.queries.settings import QueriesSettings
from fedafd.distiller.settings import DistillerSettings
from fedafd.distiller.settings import load_settings as distiller
from fedafd.domain.errors import ConfigurationError
from fedafd.region.settings import RegionSettings
from fedafd.storage import StoreSettings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDAFD_AGGREGATOR_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("FEDAFD_AGGREGATOR_STORE__URL", "s3://bucket")
    for name, value in {
        "database_url": "sqlite:///x.db",
        "store__secret_key": "s3cret",
        "internal_token": "t" * 20,
        "redis_url": "redis://h/0",
    }.items():
        (tmp_path / name).write_text(f"{value}\n")
    return tmp_path


def test_secret_files_fill_settings_also_nested_ones_without_their_line_end(folder: Path) -> None:
    settings = load_settings()
    assert settings.database_url.get_secret_value() == "sqlite:///x.db"
    assert settings.store.url == "s3://bucket"
    assert settings.store.secret_key is not None
    assert settings.store.secret_key.get_secret_value() == "s3cret"


def test_a_variable_wins_over_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDAFD_AGGREGATOR_INTERNAL_TOKEN", "from-the-environment")
    assert load_settings().internal_token.get_secret_value() == "from-the-environment"


def test_files_that_are_no_settings_are_left_alone(folder: Path) -> None:
    (folder / "admin_key").write_text("another process's")
    assert load_settings().authority_key is None


def test_a_missing_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDAFD_AGGREGATOR_SECRETS_DIR", str(folder / "nowhere"))
    with pytest.raises(ConfigurationError, match="FEDAFD_AGGREGATOR_SECRETS_DIR: .*nowhere"):
        load_settings()


def test_a_missing_secret_is_named(folder: Path) -> None:
    (folder / "internal_token").unlink()
    with pytest.raises(ConfigurationError, match="FEDAFD_AGGREGATOR_INTERNAL_TOKEN: must be set"):
        load_settings()


@pytest.mark.parametrize(
    ("load", "given", "words"),
    [
        (
            control_plane,
            {},
            "FEDAFD_CONTROL_PLANE_DATABASE_URL: must be set; FEDAFD_CONTROL_PLANE_STORE__URL: must be set",
        ),
        (
            control_plane,
            {"FEDAFD_CONTROL_PLANE_DATABASE_URL": "sqlite:///x.db", "FEDAFD_CONTROL_PLANE_STORE": "s3://bucket"},
            "FEDAFD_CONTROL_PLANE_STORE: is no variable of its own; set FEDAFD_CONTROL_PLANE_STORE__URL and so on",
        ),
        (
            control_plane,
            {"FEDAFD_CONTROL_PLANE_STORE__SECURE": "maybe", "FEDAFD_CONTROL_PLANE_DATABASE_URL": "sqlite:///x.db"},
            "FEDAFD_CONTROL_PLANE_STORE__URL: must be set; FEDAFD_CONTROL_PLANE_STORE__SECURE: Input should be a valid"
            " boolean, unable to interpret input",
        ),
        (
            load_settings,
            {"FEDAFD_AGGREGATOR_METRICS_LISTEN": "localhost"},
            "FEDAFD_AGGREGATOR_METRICS_LISTEN: must be host:port, such as example.org:7443 or [::1]:7443; found"
            " 'localhost'",
        ),
        (
            distiller,
            {"FEDAFD_DISTILLER_PROCESSES": "many"},
            "FEDAFD_DISTILLER_PROCESSES: Input should be a valid integer, unable to parse string as an integer or Input"
            " should be 'auto'",
        ),
        (
            agent,
            {"FEDAFD_AGENT_TLS": "ca.pem"},
            "FEDAFD_AGENT_TLS: is no variable of its own; set FEDAFD_AGENT_TLS__AUTHORITIES and so on",
        ),
        (
            agent,
            {"FEDAFD_AGENT_TLS": '["ca.pem"]'},
            "FEDAFD_AGENT_TLS: is no variable of its own; set FEDAFD_AGENT_TLS__AUTHORITIES and so on",
        ),
    ],
)
def test_a_wrong_variable_is_named_as_it_must_be_set(
    load: Callable[[], object], given: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("FEDAFD_")]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        load()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        AgentSettings,
        AggregatorSettings,
        ControlPlaneSettings,
        DistillerSettings,
        QueriesSettings,
        RegionSettings,
        StoreSettings,
    ],
)
def test_every_setting_has_a_meaning(settings: type[BaseModel]) -> None:
    assert [name for name, field in settings.model_fields.items() if not field.description] == []
