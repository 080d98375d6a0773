"""Commands find a `fedafd up` by the folder that it keeps, where nothing else says which control plane is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedafd.cli.doctor.up_folder import default_folder, note_settings, up_folder
from fedafd.cli.profiles import Profile, Profiles, apply_profile, write_profiles

SETTINGS = {"FEDAFD_CONTROL_PLANE_PORT": "8081", "FEDAFD_AGGREGATOR_LISTEN": "127.0.0.1:7444"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDAFD_CONFIG", str(tmp_path / "config.yaml"))
    folder = tmp_path / "fedafd-data"
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "admin-key").write_text("fedafd-key.of-this-folder")
    note_settings(folder, SETTINGS)
    return folder


def applied(name: str | None = None, **environment: str) -> dict[str, str]:
    apply_profile(name, environment)
    return environment


def test_the_folder_says_where_to_and_as_whom() -> None:
    key_file = str(Path("fedafd-data") / "secrets" / "admin-key")
    assert applied() == {"FEDAFD_URL": "http://127.0.0.1:8081", "FEDAFD_API_KEY_FILE": key_file}


@pytest.mark.parametrize(
    "given", [{"FEDAFD_URL": "http://else"}, {"FEDAFD_API_KEY": "k"}, {"FEDAFD_API_KEY_FILE": "f"}]
)
def test_a_variable_goes_before_it(given: dict[str, str]) -> None:
    assert applied(**given) == given


def test_a_default_profile_goes_before_it(tmp_path: Path) -> None:
    profiles = Profiles(default="a", profiles={"a": Profile(url="https://fedafd.example")})
    write_profiles(tmp_path / "config.yaml", profiles)
    assert applied() == {"FEDAFD_URL": "https://fedafd.example"}


def test_without_a_key_of_its_own_it_says_nothing(folder: Path) -> None:
    (folder / "secrets" / "admin-key").unlink()
    assert applied() == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"FEDAFD_CONTROL_PLANE_PORT": "8081@evil"}', '{"FEDAFD_URL": "x"}'])
def test_nothing_but_ports_is_taken_from_it(folder: Path, text: str) -> None:
    (folder / "secrets" / "settings.json").write_text(text)
    assert applied() == {}


@pytest.mark.parametrize(
    ("settings", "has_tls"),
    [
        ({}, False),
        ({"FEDAFD_AGGREGATOR_LISTEN": "0.0.0.0:7444"}, True),
        ({"FEDAFD_AGGREGATOR_LISTEN": "0.0.0.0:7444", "FEDAFD_AGGREGATOR_PLAINTEXT": "true"}, False),
        ({"FEDAFD_AGGREGATOR_PLAINTEXT": "false"}, True),
        ({"FEDAFD_AGGREGATOR_TLS_CERTIFICATE": "server.pem"}, True),
    ],
)
def test_sites_of_this_machine_dial_it_as_it_listens(folder: Path, settings: dict[str, str], has_tls: bool) -> None:
    note_settings(folder, SETTINGS | settings)
    up = up_folder()
    assert up is not None
    assert (up.aggregator, up.has_tls) == ("127.0.0.1:7444", has_tls)


NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another account, which root may alone")
@pytest.mark.parametrize("whose", ["", "secrets", "secrets/settings.json"])
def test_a_folder_that_another_account_put_here_is_not_asked_whom_to_call(folder: Path, whose: str) -> None:
    """Its key could be a link to a secret of ours, and its port be the other account's."""
    assert default_folder() is not None and up_folder() is not None
    os.chown(folder / whose, NOBODY, NOBODY)
    assert applied() == {}
    assert default_folder() is None
