"""A secret is read as it was meant, whatever editor saved its file: marks and line ends are no part of it."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from fedafd.agent.settings import load_settings as load_agent_settings
from fedafd.aggregator.settings import load_settings as load_aggregator_settings
from fedafd.cli.remote.options import connect
from fedafd.cli.store import read_secret
from fedafd.control_plane.settings import load_settings as load_control_plane_settings
from fedafd.distiller.settings import load_settings as load_distiller_settings
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.secrets import MIN_SECRET_LENGTH
from fedafd.storage.factory import StoreSettings, open_store

SECRET = "fedafd-enrol.x_y-z"
SAVED = {
    "plain": SECRET.encode(),
    "line end": f"{SECRET}\n".encode(),
    "CRLF": f"{SECRET}\r\n".encode(),
    "UTF-8 with a mark": codecs.BOM_UTF8 + f"{SECRET}\r\n".encode(),
    "UTF-16 of PowerShell": codecs.BOM_UTF16_LE + f"{SECRET}\r\n".encode("utf-16-le"),
    "UTF-16, big end": codecs.BOM_UTF16_BE + SECRET.encode("utf-16-be"),
    "spaces": f"  {SECRET}\t\n\n".encode(),
}


@pytest.fixture(params=list(SAVED.values()), ids=list(SAVED))
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(request.param)
    return path


def test_the_enrolment_token(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDAFD_AGENT_ENROLMENT_TOKEN_FILE", str(file))
    assert load_agent_settings().token() == SECRET


def test_the_enrolment_token_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDAFD_AGENT_ENROLMENT_TOKEN", f"\ufeff{SECRET}\r\n")
    assert load_agent_settings().token() == SECRET


def test_the_admin_key_and_secrets_in_a_folder(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "redis_url").write_bytes(codecs.BOM_UTF8 + b"redis://h:1/0\r\n")
    values = {"DATABASE_URL": "sqlite:///x", "STORE__URL": "x", "ADMIN_KEY_FILE": file, "SECRETS_DIR": folder}
    for name, value in values.items():
        monkeypatch.setenv(f"FEDAFD_CONTROL_PLANE_{name}", str(value))
    settings = load_control_plane_settings()
    assert settings.first_admin_key() == SECRET
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://h:1/0"


def test_the_api_key_of_the_command_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDAFD_API_KEY_FILE", str(file))
    server = connect("http://127.0.0.1:1", "")
    assert server._http.headers["Authorization"] == f"Bearer {SECRET}"
    server.close()


def test_the_key_of_the_object_store(file: Path) -> None:
    assert read_secret(file) == SECRET
    open_store(StoreSettings(url="s3://b", endpoint="h:1", access_key="a", secret_key_file=file))


@pytest.mark.parametrize(("content", "words"), [(b"\xef\xbb\xbf\r\n", "is empty"), (b"\x80\x81", "is not text")])
def test_a_file_without_a_secret_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/secret: {words}"):
        read_secret(tmp_path / "secret")


SHORT = ["", "x", "fedafd-key", "x" * (MIN_SECRET_LENGTH - 1), " " * 40]
PROCESSES = {
    "CONTROL_PLANE_ADMIN_KEY": load_control_plane_settings,
    "AGGREGATOR_INTERNAL_TOKEN": load_aggregator_settings,
    "DISTILLER_INTERNAL_TOKEN": load_distiller_settings,
}


@pytest.mark.parametrize("secret", SHORT, ids=["empty", "a letter", "a prefix", "one too few", "spaces"])
@pytest.mark.parametrize("name", PROCESSES)
def test_a_short_secret_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, name: str, secret: str) -> None:
    process = name.rpartition("_")[0].rpartition("_")[0]
    given = {"DATABASE_URL": "sqlite:///x", "STORE__URL": "x", "REDIS_URL": "redis://h:1/0"}
    for each, value in given.items():
        if process != "DISTILLER" or each != "DATABASE_URL":
            monkeypatch.setenv(f"FEDAFD_{process}_{each}", value)
    monkeypatch.setenv(f"FEDAFD_{name}", secret)
    with pytest.raises(ConfigurationError, match=f"FEDAFD_{name}: (is empty|has [0-9]+ characters)"):
        PROCESSES[name]()
    monkeypatch.setenv(f"FEDAFD_{name}", "x" * MIN_SECRET_LENGTH)
    PROCESSES[name]()


def test_a_short_admin_key_in_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short\n")
    for name, value in {"DATABASE_URL": "sqlite:///x", "STORE__URL": "x", "ADMIN_KEY_FILE": tmp_path / "key"}.items():
        monkeypatch.setenv(f"FEDAFD_CONTROL_PLANE_{name}", str(value))
    with pytest.raises(ConfigurationError, match=f"ADMIN_KEY_FILE {tmp_path}/key: has 5 characters"):
        load_control_plane_settings().first_admin_key()
