"""Settings from variables and from a folder of secret files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedafd.aggregator.settings import load_settings
from fedafd.domain.errors import ConfigurationError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDAFD_AGGREGATOR_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("FEDAFD_AGGREGATOR_STORE__URL", "s3://bucket")
    for name, value in {
        "database_url": "sqlite:///x.db",
        "store__secret_key": "s3cret",
        "internal_token": "t" * 20,
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
    assert load_settings().redis_url is None


def test_a_missing_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDAFD_AGGREGATOR_SECRETS_DIR", str(folder / "nowhere"))
    with pytest.raises(ConfigurationError, match="FEDAFD_AGGREGATOR_SECRETS_DIR: .*nowhere"):
        load_settings()


def test_a_missing_secret_is_named(folder: Path) -> None:
    (folder / "internal_token").unlink()
    with pytest.raises(ConfigurationError, match="FEDAFD_AGGREGATOR_INTERNAL_TOKEN: Field required"):
        load_settings()
