"""Settings of the identity provider, from variables and secret files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedafd.control_plane.settings import load_settings
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Role

PREFIX = "FEDAFD_CONTROL_PLANE_"
GOOD = {
    "OIDC__ISSUER": "https://login.example/realms/clinic",
    "OIDC__CLIENT_ID": "fedafd",
    "OIDC__ROLES": '{"it": "admin", "lungs-team": {"role": "operator", "federations": ["lungs"]}}',
}


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in (GOOD | {"DATABASE_URL": "sqlite:////tmp/none.db", "STORE__URL": str(tmp_path)}).items():
        monkeypatch.setenv(PREFIX + name, value)
    return monkeypatch


def test_roles_are_written_short_or_with_federations_and_the_secret_may_be_a_file(
    given: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "oidc__client_secret").write_text("from the file\n")
    given.setenv(f"{PREFIX}SECRETS_DIR", str(tmp_path))
    oidc = load_settings().oidc
    assert oidc is not None
    assert {name: (grant.role, grant.federations) for name, grant in oidc.roles.items()} == {
        "it": (Role.ADMIN, None),
        "lungs-team": (Role.OPERATOR, ("lungs",)),
    }
    assert oidc.client_secret is not None
    assert oidc.client_secret.get_secret_value() == "from the file"
    (tmp_path / "oidc__client_secret").write_text("\n")  # as Compose mounts it for a public client
    public = load_settings().oidc
    assert public is not None
    assert public.client_secret is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ISSUER", "http://login.example", "OIDC__ISSUER: .*must be an https address"),
        ("ISSUER", "https://login.example/?a=b", "OIDC__ISSUER: .*without user, query or fragment"),
        ("PUBLIC_URL", "fed.example", "OIDC__PUBLIC_URL: .*must be an https address"),
        ("ROLES", "{}", "OIDC__ROLES: .*at least 1"),
        ("ROLES", '{"it": "king"}', "OIDC__ROLES: .*'admin'"),
        ("ROLES", '{"it": {"role": "admin", "federation": ["x"]}}', "OIDC__ROLES: .*not permitted"),
        ("ROLES", "it=admin", "OIDC"),
        ("SCOPES", "profile", "OIDC__SCOPES: .*lacks openid"),
        ("CLIENT_ID", "", "OIDC__CLIENT_ID: "),
        ("ISUER", "x", "OIDC__ISUER: "),
    ],
)
def test_wrong_settings_are_refused_by_name(given: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    given.setenv(f"{PREFIX}OIDC__{name}", value)
    with pytest.raises(ConfigurationError, match=f"{PREFIX}{words}"):
        load_settings()


def test_what_is_missing_is_named(given: pytest.MonkeyPatch) -> None:
    given.delenv(f"{PREFIX}OIDC__CLIENT_ID")
    with pytest.raises(ConfigurationError, match=f"{PREFIX}OIDC__CLIENT_ID: must be set"):
        load_settings()
