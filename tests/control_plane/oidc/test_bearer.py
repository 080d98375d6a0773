"""Tokens of the identity provider on REST: whom they let in, and which are refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from typing import Any

import httpx
import jwt
import pytest
from tests.control_plane.rest import Rest, problem
from tests.identity_provider import AUDIENCE, CLIENT, IdentityProvider, new_key
from tests.servers import wait_until

from fedafd.control_plane.oidc.people import People
from fedafd.control_plane.oidc.provider import Provider
from fedafd.domain.errors import IdentityProviderUnavailableError, UnauthenticatedError


async def ask(rest: Rest, token: str, path: str = "/federations", method: str = "GET", **more: Any) -> httpx.Response:
    return await rest.http.request(method, path, headers={"Authorization": f"Bearer {token}"}, **more)


def part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize("kid", ["one", "two"])
async def test_a_token_opens_what_its_group_may(rest: Rest, provider: IdentityProvider, kid: str) -> None:
    token = provider.token(kid)
    assert (await ask(rest, token)).status_code == 200
    assert "admin or higher; yours is viewer" in problem(
        await ask(rest, token, "/drain", "PUT", json={}), 403, "forbidden"
    )


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        (["lungs-team"], {"lungs"}),
        (["lungs-team", "hearts-team", "staff"], {"lungs", "hearts"}),
        (["lungs-team", "it"], {"lungs", "hearts", "brains"}),
        ("staff", {"lungs", "hearts", "brains"}),
    ],
)
async def test_the_highest_role_counts_and_its_federations_add_up(
    rest: Rest, provider: IdentityProvider, groups: object, named: set[str]
) -> None:
    for name in ("lungs", "hearts", "brains"):
        await rest.federation(name)
    answer = await ask(rest, provider.token(groups=groups))
    assert {each["name"] for each in answer.json()["items"]} == named


async def test_the_audit_log_names_the_person_and_tells_namesakes_apart(rest: Rest, provider: IdentityProvider) -> None:
    await rest.federation("lungs")
    for number, subject in enumerate(("0815", "4711")):
        token = provider.token(groups=["lungs-team"], sub=subject, preferred_username="ann\x1b[2J")
        body = {"name": f"south-{number}", "kind": "image"}
        assert (await ask(rest, token, "/federations/lungs/clients", "POST", json=body)).status_code == 201
    events = (await rest.http.get("/federations/lungs/events")).json()["items"]
    first, second = (each["actor"] for each in events if each["kind"] == "client.invited")
    assert first.startswith("person:ann [2J#")
    assert first != second


def forged(provider: IdentityProvider) -> dict[str, tuple[str, str]]:
    """Tokens that are not good, and what is said of each."""
    now = int(time.time())
    header, body, signature = provider.token().split(".")
    claims = {"iss": provider.issuer, "aud": AUDIENCE, "sub": "0815", "exp": now + 300, "groups": ["it"]}
    signed = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims)}"
    mac = hmac.new(provider.public_pem("one"), signed.encode(), hashlib.sha256).digest()
    with_public_key = f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    stranger = jwt.encode(claims, new_key("RS256"), "RS256", headers={"kid": "one"})
    inline = jwt.encode(claims, new_key("RS256"), "RS256", headers={"kid": "mine", "jwk": {"kty": "RSA"}})
    return {
        "expired": (provider.token(exp=now - 60), "has expired"),
        "not yet": (provider.token(nbf=now + 120), "not good yet"),
        "without an end": (provider.token(exp=None), "not one that"),
        "without a subject": (provider.token(sub=None), "not one that"),
        "of another audience": (provider.token(aud="another"), "is not for 'fedafd-rest'"),
        "an identity token": (provider.token(aud=CLIENT), "is not for 'fedafd-rest'"),
        "without an audience": (provider.token(aud=None), "not one that"),
        "of another issuer": (provider.token(iss="http://localhost:1"), "is not of http"),
        "without a signature": (f"{part({'alg': 'none'})}.{part(claims)}.", "signed with 'none'"),
        "HS256 with the public key": (with_public_key, "signed with 'HS256'"),
        "of a stranger's key": (stranger, "not one that"),
        "with its own key": (inline, "a key that the identity provider does not show"),
        "changed": (f"{header}.{part(claims)}.{signature}", "not one that"),
        "of another algorithm": (f"{part({'alg': 'ES256', 'kid': 'one'})}.{body}.{signature}", "does not show"),
        "long": (f"eyJ{'A' * 20_000}.{body}.{signature}", "longer than"),
        "no token": ("eyJ.eyJ.eyJ", "not one that"),
        "a list": (f"{part({'alg': 'RS256', 'kid': 'one'})}.{base64.b64encode(b'[1]').decode()}.x", "not one that"),
    }


async def test_tokens_that_are_not_good_are_refused_and_counted(rest: Rest, provider: IdentityProvider) -> None:
    for what, (token, words) in forged(provider).items():
        answer = await ask(rest, token)
        assert words in problem(answer, 401, "unauthenticated"), what
    await rest.context.failed_logins.write(rest.context.database)
    told = [each for each in (await rest.http.get("/events")).json()["items"] if each["kind"] == "login.failed"]
    assert [each["address"] for each in told] == ["127.0.0.1"]


async def test_clocks_may_differ_by_the_leeway(rest: Rest, provider: IdentityProvider) -> None:
    assert (await ask(rest, provider.token(exp=int(time.time()) - 20))).status_code == 200


async def test_somebody_without_a_role_is_told_so(rest: Rest, provider: IdentityProvider) -> None:
    for claims in ({"groups": ["canteen"]}, {"groups": None}, {"groups": {"staff": 1}}, {"groups": [["staff"]]}):
        words = problem(await ask(rest, provider.token(**claims)), 403, "forbidden")
        assert words.startswith("ann: is known, and has no role here")


async def test_a_rotated_key_is_asked_for_and_the_old_one_is_refused(rest: Rest, provider: IdentityProvider) -> None:
    old = provider.token()
    assert (await ask(rest, old)).status_code == 200
    provider.rotate("three", "ES256")
    assert (await ask(rest, provider.token())).status_code == 200
    assert "does not show" in problem(await ask(rest, old), 401, "unauthenticated")


async def test_keys_that_nobody_has_do_not_make_the_provider_be_asked_each_time(provider: IdentityProvider) -> None:
    from tests.control_plane.oidc.conftest import oidc_settings

    settings = oidc_settings(provider)
    people, token = People(settings), provider.token()
    provider.rotate("other")
    await people.provider.metadata()
    for _ in range(20):
        with pytest.raises(UnauthenticatedError, match="does not show"):
            await people.of_bearer(token)
    assert provider.asked.count("/keys") == 1


async def test_while_the_provider_is_away_known_keys_count_and_api_keys_go_on(
    rest: Rest, provider: IdentityProvider
) -> None:
    assert rest.context.people is not None
    token, settings = provider.token(), rest.context.people.settings
    provider.failing = True
    words = problem(await ask(rest, token), 503, "identity-provider-unavailable")
    assert "/.well-known/openid-configuration: answers 503; API keys go on working" in words
    assert (await rest.http.get("/federations")).status_code == 200
    provider.failing = False
    rest.context.people.provider = Provider(settings, fresh_seconds=0.0, again_seconds=0.0)
    assert (await ask(rest, token)).status_code == 200
    provider.failing = True
    assert (await ask(rest, token)).status_code == 200
    old = People(settings, Provider(settings, fresh_seconds=0.0, stale_seconds=0.0, again_seconds=0.0))
    with pytest.raises(IdentityProviderUnavailableError):
        await old.of_bearer(token)


@pytest.mark.parametrize("fresh_seconds", [3600.0, 0.0])
async def test_while_the_provider_hangs_whose_key_is_known_does_not_wait(
    rest: Rest, provider: IdentityProvider, fresh_seconds: float
) -> None:
    """A stranger makes the provider be asked, time and again, by tokens with a key that nobody has."""
    assert rest.context.people is not None
    settings, token = rest.context.people.settings, provider.token()
    rest.context.people.provider = Provider(settings, fresh_seconds=fresh_seconds, again_seconds=0.0)
    assert (await ask(rest, token)).status_code == 200
    keys = provider.keys
    provider.rotate("made-up")
    made_up, provider.keys = provider.token(), keys
    provider.hung = threading.Event()
    try:
        asked = len(provider.asked)
        stranger = asyncio.create_task(ask(rest, made_up))
        await asyncio.to_thread(wait_until, lambda: len(provider.asked) > asked, "the question")
        async with asyncio.timeout(2):
            assert (await ask(rest, token)).status_code == 200
        assert not stranger.done()
    finally:
        provider.hung.set()
    assert (await stranger).status_code in (401, 503)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"issuer": "https://other.example"}, "is of issuer 'https://other.example'"),
        ({"jwks_uri": "http://keys.example/keys"}, "jwks_uri: .*must be an https address"),
        ({"token_endpoint": None}, "token_endpoint"),
    ],
)
async def test_a_discovery_document_that_is_not_the_providers_is_refused(
    provider: IdentityProvider, document: dict[str, Any], words: str
) -> None:
    from tests.control_plane.oidc.conftest import oidc_settings

    provider.document = document
    with pytest.raises(IdentityProviderUnavailableError, match=words):
        await People(oidc_settings(provider)).of_bearer(provider.token())


async def test_without_an_audience_rest_takes_keys_alone(provider: IdentityProvider) -> None:
    from tests.control_plane.oidc.conftest import oidc_settings

    with pytest.raises(UnauthenticatedError, match="takes API keys, and no tokens"):
        await People(oidc_settings(provider, audience=None)).of_bearer(provider.token())


async def test_a_claim_may_lie_deeper(provider: IdentityProvider) -> None:
    from tests.control_plane.oidc.conftest import oidc_settings

    people = People(oidc_settings(provider, roles_claim="realm_access.roles"))
    assert (await people.of_bearer(provider.token(realm_access={"roles": ["it"]}))).role == "admin"
