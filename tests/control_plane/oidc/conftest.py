"""A control plane that takes the people of a real, small identity provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.control_plane.rest import Rest, in_process, settings_for
from tests.identity_provider import AUDIENCE, CLIENT, SECRET, IdentityProvider, identity_provider

from fedafd.control_plane.oidc.provider import Provider
from fedafd.control_plane.oidc.settings import OidcSettings
from fedafd.storage import StoreSettings

ROLES = {"staff": "viewer", "lungs-team": {"role": "operator", "federations": ["lungs"]}}
ROLES |= {"hearts-team": {"role": "operator", "federations": ["hearts"]}, "it": "admin"}


def oidc_settings(provider: IdentityProvider, **more: object) -> OidcSettings:
    values = {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET, "audience": AUDIENCE}
    return OidcSettings.model_validate(values | {"public_url": "http://127.0.0.1", "roles": ROLES} | more)


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        yield provider


@pytest.fixture
async def rest(tmp_path: Path, provider: IdentityProvider) -> AsyncIterator[Rest]:
    store = StoreSettings(url=str(tmp_path / "store"))
    settings = settings_for(f"sqlite:///{tmp_path}/oidc.db", store, oidc=oidc_settings(provider))
    async with in_process(settings) as rest:
        assert rest.context.people is not None
        rest.context.people.provider = Provider(rest.context.people.settings, again_seconds=0.0)
        yield rest
