"""Login of the dashboard by the identity provider, and what is tried against it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from tests.control_plane.dashboard.browsing import Visitor, stranger
from tests.control_plane.oidc.conftest import ROLES, oidc_settings
from tests.control_plane.rest import KEY, Rest, in_process, settings_for
from tests.identity_provider import SECRET, IdentityProvider

from fedafd.control_plane.dashboard.sessions import SessionSigner
from fedafd.control_plane.oidc.people import People
from fedafd.storage import StoreSettings

CALLBACK = "/login/oidc/callback"


async def begin(someone: Visitor, back: str = "/") -> dict[str, str]:
    """What the provider is asked."""
    answer = await someone.http.get(f"/login/oidc?{urlencode({'next': back})}")
    assert answer.status_code == 303, answer.text
    return {name: one for name, (one, *_) in parse_qs(urlsplit(answer.headers["location"]).query).items()}


async def come_back(someone: Visitor, provider: IdentityProvider, asked: dict[str, str]) -> httpx.Response:
    """With the provider's answer."""
    return await someone.http.get(f"{CALLBACK}?{urlsplit(provider.allow(asked)).query}")


async def log_in(rest: Rest, provider: IdentityProvider, back: str = "/") -> Visitor:
    someone = stranger(rest)
    answer = await come_back(someone, provider, await begin(someone, back))
    assert answer.status_code == 200, answer.text
    return someone


async def refused(answer: httpx.Response, words: str, status: int = 401) -> None:
    assert answer.status_code == status, answer.text
    assert words in re.sub(r"&#39;|&#34;", "'", answer.text)
    assert "fedafd-session" not in answer.headers.get("set-cookie", "")


async def test_a_person_logs_in_sees_what_the_group_may_and_stands_in_the_audit_log(
    rest: Rest, provider: IdentityProvider
) -> None:
    await rest.federation("lungs")
    await rest.federation("hearts")
    provider.person["groups"] = ["lungs-team"]
    someone = stranger(rest)
    assert "Log in with localhost" in await someone.page("/login?next=/federations/lungs")
    asked = await begin(someone, "/federations/lungs")
    assert asked["redirect_uri"] == "http://127.0.0.1/login/oidc/callback"
    answer = await come_back(someone, provider, asked)
    assert 'content="0; url=/federations/lungs"' in answer.text
    session = next(each for each in answer.headers.get_list("set-cookie") if each.startswith("fedafd-session"))
    assert all(word in session for word in ("HttpOnly", "SameSite=strict", "Max-Age=3600"))
    page = await someone.page("/federations/lungs/sites")
    assert "ann" in page
    assert await someone.page("/federations/hearts/sites", 404)
    made = await someone.send("/federations/lungs/sites", name="south", kind="image", aggregator="fed.example:7443")
    assert made.status_code == 200
    events = (await rest.http.get("/events")).json()["items"]
    (login,) = (each for each in events if each["kind"] == "login.succeeded")
    told = {"subject": "0815", "role": "operator", "federations": ["lungs"]}
    assert login["data"] == told | {"person": login["data"]["person"]}
    assert login["actor"] == f"person:ann#{login['data']['person'][:8]}"
    assert [each["actor"] for each in events if each["kind"] == "client.invited"] == [login["actor"]]
    assert (await someone.send("/logout")).status_code == 303
    assert (await someone.http.get("/")).status_code == 303


async def test_a_public_client_and_one_that_sends_its_secret_in_the_form(
    rest: Rest, provider: IdentityProvider
) -> None:
    assert rest.context.people is not None
    provider.document = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    await log_in(rest, provider)
    provider.public = True
    rest.context.people.settings.client_secret = None
    await log_in(rest, provider)


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
async def test_a_login_leads_to_no_other_site(rest: Rest, provider: IdentityProvider, back: str) -> None:
    someone = stranger(rest)
    answer = await come_back(someone, provider, await begin(someone, back))
    assert 'content="0; url=/"' in answer.text
    assert "evil" not in answer.text
    assert "alert" not in answer.text


async def test_an_answer_is_taken_once_and_by_the_browser_that_asked_alone(
    rest: Rest, provider: IdentityProvider
) -> None:
    victim, attacker = stranger(rest), stranger(rest)
    asked = await begin(attacker)
    await begin(victim)
    await refused(await come_back(victim, provider, asked), "to another login (state)")
    await refused(await come_back(stranger(rest), provider, asked), "not begun in this browser")
    kept = dict(attacker.http.cookies)
    answer = await come_back(attacker, provider, asked)
    assert answer.status_code == 200
    assert "fedafd-login-0" not in attacker.http.cookies
    again = stranger(rest)
    again.http.cookies.update(kept)
    await refused(await come_back(again, provider, asked), "has ended before (state)")


async def test_a_changed_cookie_is_none(rest: Rest, provider: IdentityProvider) -> None:
    someone = stranger(rest)
    asked = await begin(someone)
    cookie = someone.http.cookies["fedafd-login-0"]
    session = rest.context.sessions.seal("cookie", "x")
    for each in (f"A{cookie[1:]}", cookie.partition(".")[0], "", session):
        other = stranger(rest)
        other.http.cookies.set("fedafd-login-0", each)
        await refused(await come_back(other, provider, asked), "not begun in this browser")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"nonce": "another"}, "of another login (nonce)"),
        ({"nonce": None}, "of another login (nonce)"),
        ({"aud": "another"}, "is not for 'fedafd-dashboard'"),
        ({"azp": "another"}, "another party (azp)"),
        ({"iss": "https://evil.example"}, "is not of http"),
        ({"exp": 1}, "has expired"),
        ({"groups": ["canteen"]}, "ann: is known, and has no role here"),
    ],
)
async def test_identity_tokens_that_are_not_good_are_refused(
    rest: Rest, provider: IdentityProvider, wrong: dict[str, object], words: str
) -> None:
    provider.wrong = wrong
    someone = stranger(rest)
    await refused(await come_back(someone, provider, await begin(someone)), words)


async def test_what_the_provider_refuses_is_told(rest: Rest, provider: IdentityProvider) -> None:
    someone = stranger(rest)
    state = (await begin(someone))["state"]
    told = {"state": state, "error": "access_denied<script>"}
    await refused(
        await someone.http.get(f"{CALLBACK}?{urlencode(told)}"), "did not let you in: access_denied&lt;script"
    )
    asked = await begin(someone)
    answer = await someone.http.get(f"{CALLBACK}?{urlencode({'state': asked['state'], 'code': 'guessed', 'x': '1'})}")
    await refused(answer, "gave no identity for the code: invalid_grant")
    asked = await begin(someone)
    other = urlencode({"state": asked["state"], "code": "x", "iss": "https://evil.example"})
    await refused(await someone.http.get(f"{CALLBACK}?{other}"), "of another identity provider (iss)")
    asked = await begin(someone) | {"code_challenge": "another"}
    await refused(await come_back(someone, provider, asked), "invalid_grant")


async def test_while_the_provider_is_away_the_login_says_so_and_keys_go_on(
    rest: Rest, provider: IdentityProvider
) -> None:
    provider.failing = True
    someone = stranger(rest)
    await refused(await someone.http.get("/login/oidc"), "the identity provider cannot be used", 503)
    key = (await rest.key("board", "viewer"))["Authorization"].removeprefix("Bearer ")
    assert (await someone.http.post("/login", data={"key": key})).status_code == 303


async def test_sessions_end_with_the_time_and_with_other_roles(rest: Rest, provider: IdentityProvider) -> None:
    someone = await log_in(rest, provider)
    assert (await someone.http.get("/")).status_code == 200
    people = rest.context.people
    assert people is not None
    changed = People(oidc_settings(provider, roles=ROLES | {"staff": "admin"}))
    object.__setattr__(rest.context, "people", changed)
    assert (await someone.http.get("/")).status_code == 303
    object.__setattr__(rest.context, "people", None)
    assert (await someone.http.get("/")).status_code == 303
    object.__setattr__(rest.context, "people", people)
    assert (await someone.http.get("/")).status_code == 200
    people.settings.session_minutes = 1e-9
    assert (await (await log_in(rest, provider)).http.get("/")).status_code == 303


async def test_where_no_login_is_set_up_there_is_none(tmp_path: Path, provider: IdentityProvider) -> None:
    store = StoreSettings(url=str(tmp_path / "store"))
    for number, oidc in enumerate((None, oidc_settings(provider, public_url=None))):
        async with in_process(settings_for(f"sqlite:///{tmp_path}/{number}.db", store, oidc=oidc)) as rest:
            someone = stranger(rest)
            assert "Log in with" not in await someone.page("/login")
            for path in ("/login/oidc", CALLBACK):
                assert "log in with an API key" in (await someone.http.get(path)).text
    assert SECRET not in repr(oidc_settings(provider))


async def test_who_kept_the_first_admins_key_after_it_was_revoked_signs_no_session(
    rest: Rest, provider: IdentityProvider
) -> None:
    """The settings still hold it, and all that a session of a person says of the settings can be known or guessed."""
    await rest.key("second", "admin")
    assert (await rest.http.delete("/api-keys/admin")).is_success
    known = People(oidc_settings(provider))
    it = list(ROLES).index("it")
    forged = SessionSigner(KEY)
    session = forged.begin_of_person("0" * 32, known.mark, json.dumps(["somebody", [it]]), 600)
    someone = stranger(rest)
    for port in (0, someone.http.base_url.port or 0):
        someone.http.cookies.set(f"fedafd-session-{port}", forged.cookie(session))
    answer = await someone.http.get("/keys")
    assert (answer.status_code, answer.headers.get("location")) == (303, "/login?next=/keys"), answer.text
