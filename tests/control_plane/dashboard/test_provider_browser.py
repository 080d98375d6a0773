"""Login by an identity provider in a real browser: its rules for cookies between two sites decide whether it works."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.control_plane.dashboard.test_browser import BROWSER, browser
from tests.control_plane.oidc.conftest import oidc_settings
from tests.control_plane.rest import listening, settings_for
from tests.identity_provider import identity_provider

from fedafd.storage import StoreSettings


@pytest.mark.timeout(300)
async def test_a_person_comes_by_the_provider_to_the_page_that_was_asked_for(tmp_path: Path) -> None:
    if BROWSER is None:
        pytest.skip("no chromium is installed here: apt-get install chromium")
    store = StoreSettings(url=str(tmp_path / "store"))
    with identity_provider() as provider:
        settings = settings_for(f"sqlite:///{tmp_path}/oidc.db", store, oidc=oidc_settings(provider))
        async with listening(settings) as rest:
            assert rest.context.people is not None
            rest.context.people.settings.public_url = rest.url
            await rest.federation()
            provider.person["groups"] = ["it"]
            async with browser(rest, "desktop", provider.issuer) as watched:
                page = watched.page
                await watched.open("/federations/trial/events")
                await watched.check()
                await page.get_by_role("link", name="Log in with localhost").click()
                await page.get_by_role("link", name="I am ann").click()
                await page.wait_for_url("**/federations/trial/events")
                await page.wait_for_selector("text=ann (admin)")
                await page.wait_for_selector("text=From where")
                await watched.check()
                await page.get_by_role("button", name="Log out").click()
                await page.wait_for_selector("text=Log in with localhost")
