"""What an identity provider says of somebody is text: on pages, in the audit log, in answers."""

from __future__ import annotations

import pytest
from tests.control_plane.dashboard.browsing import stranger
from tests.control_plane.dashboard.test_markup import TEXT, look
from tests.control_plane.oidc.test_login import begin, come_back, log_in
from tests.control_plane.rest import Rest
from tests.identity_provider import IdentityProvider


async def test_no_claim_becomes_markup(rest: Rest, provider: IdentityProvider) -> None:
    await rest.federation("lungs")
    provider.person |= {
        "preferred_username": TEXT,
        "name": TEXT,
        "email": TEXT,
        "sub": TEXT[:100],
        "groups": ["lungs-team"],
    }
    someone = await log_in(rest, provider)
    await someone.send("/federations/lungs/sites", name="south", kind="image", aggregator="fed.example:7443")
    for path in ("/", "/federations/lungs", "/federations/lungs/events", "/federations/lungs/sites/south"):
        assert look(await someone.page(path)).found == [], path
    actors = [event["actor"] for event in (await rest.http.get("/events")).json()["items"]]
    assert any(actor.startswith("person:") for actor in actors)


@pytest.mark.parametrize("claim", ["preferred_username", "sub"])
async def test_a_refused_login_makes_no_markup(rest: Rest, provider: IdentityProvider, claim: str) -> None:
    provider.person |= {claim: TEXT, "groups": ["canteen"]}
    someone = stranger(rest)
    answer = await come_back(someone, provider, await begin(someone))
    assert answer.status_code == 401
    assert look(answer.text).found == []
