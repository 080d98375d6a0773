"""Who gets in, whose forms are taken, and what a browser is told to load."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from tests.control_plane.dashboard.browsing import stranger, visitor
from tests.control_plane.rest import KEY, Rest

from fedafd.control_plane.callers import caller_of_key
from fedafd.control_plane.dashboard.live import _changes
from fedafd.control_plane.dashboard.sessions import SESSION_SECONDS, SessionSigner
from fedafd.control_plane.dashboard.visits import Visit
from fedafd.domain.secrets import hash_secret
from fedafd.persistence.api_key_repository import key_by_secret
from fedafd.persistence.login_repository import forget_ended_logins
from fedafd.persistence.models import EndedLoginRow, utc_now

PAGES = ["/", "/live"]


@pytest.mark.parametrize("path", PAGES)
async def test_nobody_sees_a_page_before_the_login(rest: Rest, path: str) -> None:
    answer = await stranger(rest).http.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login")


async def test_the_login_leads_back_to_the_page_that_was_asked_for_and_never_elsewhere(rest: Rest) -> None:
    visit = stranger(rest)
    for asked, led in (
        ("/federations/trial", "/federations/trial"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
    ):
        answer = await visit.http.post("/login", data={"key": KEY, "next": asked})
        assert (answer.status_code, answer.headers["location"]) == (303, led)


async def test_the_cookie_is_for_this_site_alone_and_no_script_reads_it(rest: Rest) -> None:
    cookie = (await stranger(rest).http.post("/login", data={"key": KEY})).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert f"max-age={SESSION_SECONDS}" in cookie
    assert "secure" not in cookie
    assert KEY not in cookie
    behind_tls = await stranger(rest).http.post("/login", data={"key": KEY}, headers={"X-Forwarded-Proto": "https"})
    assert "secure" in behind_tls.headers["set-cookie"].lower()


@pytest.mark.parametrize("key", ["", "wrong", "ключ", "x" * 600])
async def test_a_wrong_key_is_told_in_words(rest: Rest, key: str) -> None:
    answer = await stranger(rest).http.post("/login", data={"key": key})
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert "set-cookie" not in answer.headers


async def test_a_sites_credential_opens_no_dashboard(rest: Rest) -> None:
    await rest.federation()
    credential = (await rest.enrol("north"))["Authorization"].removeprefix("Bearer ")
    answer = await stranger(rest).http.post("/login", data={"key": credential})
    assert (answer.status_code, "site&#39;s credential" in answer.text) == (401, True)


async def test_who_tries_many_keys_at_the_login_is_refused(rest: Rest) -> None:
    visit = stranger(rest)
    statuses: list[int] = []
    while 429 not in statuses:
        statuses.append((await visit.http.post("/login", data={"key": f"guess-{len(statuses)}"})).status_code)
    assert 60 < len(statuses) < 150
    assert (await visit.http.post("/login", data={"key": KEY})).status_code == 429


async def test_a_session_ends_with_its_key_and_at_the_logout(rest: Rest) -> None:
    viewer = await visitor(rest, "viewer")
    assert (await viewer.http.get("/")).status_code == 200
    await rest.http.delete("/api-keys/a-viewer")
    assert (await viewer.http.get("/")).status_code == 303
    admin = await visitor(rest)
    assert (await admin.send("/logout")).headers["location"] == "/login"
    assert (await admin.http.get("/")).status_code == 303


async def test_a_copy_of_the_cookie_is_worth_nothing_after_the_logout(rest: Rest) -> None:
    admin, thief, other = await visitor(rest), stranger(rest), await visitor(rest)
    thief.http.cookies.update(admin.http.cookies)
    assert (await thief.http.get("/")).status_code == 200
    await admin.send("/logout")
    assert (await thief.http.get("/")).status_code == 303
    assert (await other.http.get("/")).status_code == 200  # the key's other logins go on
    async with rest.context.database.transaction() as session:
        await forget_ended_logins(session)
    assert (await thief.http.get("/")).status_code == 303
    async with rest.context.database.transaction() as session:
        await session.execute(update(EndedLoginRow).values(expires_at=utc_now() - timedelta(seconds=1)))
        await forget_ended_logins(session)
        assert await session.scalar(select(EndedLoginRow)) is None


async def test_a_cookie_that_was_planted_before_the_login_becomes_nobodys(rest: Rest) -> None:
    attacker, victim = await visitor(rest, "viewer"), stranger(rest)
    victim.http.cookies.update(attacker.http.cookies)
    assert (await victim.http.post("/login", data={"key": KEY})).status_code == 303
    assert dict(victim.http.cookies) != dict(attacker.http.cookies)
    assert "/keys" in await victim.page("/")
    assert "/keys" not in await attacker.page("/")


async def test_forms_of_other_pages_are_refused(rest: Rest) -> None:
    admin = await visitor(rest)
    for fields, headers in (
        ({}, {}),
        ({"token": "0" * 64}, {}),
        ({"token": await admin.token()}, {"Origin": "https://evil.example"}),
        ({"token": await admin.token()}, {"Sec-Fetch-Site": "cross-site"}),
        ({"token": await admin.token()}, {"Origin": "null"}),
    ):
        answer = await admin.http.post("/logout", data=fields, headers=headers)
        assert answer.status_code == 403
    assert (await admin.http.get("/")).status_code == 200
    login = await stranger(rest).http.post("/login", data={"key": KEY}, headers={"Sec-Fetch-Site": "cross-site"})
    assert (login.status_code, "set-cookie" in login.headers) == (403, False)


async def test_a_proxy_may_rename_the_host(rest: Rest) -> None:
    headers = {"Origin": "https://fed.example", "X-Forwarded-Host": "fed.example"}
    assert (await stranger(rest).http.post("/login", data={"key": KEY}, headers=headers)).status_code == 303


async def test_pages_run_no_inline_script_and_load_nothing_from_elsewhere(rest: Rest) -> None:
    admin = await visitor(rest)
    for path in ("/", "/login", "/docs"):
        answer = await admin.http.get(path)
        policy = answer.headers["content-security-policy"]
        scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
        assert scripts == "script-src 'self'"
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
        assert "https://" not in answer.text
        assert "<script>" not in answer.text
        assert answer.headers["cache-control"] == "no-store"


async def test_swagger_ui_comes_from_here(rest: Rest) -> None:
    for path, kind in (
        ("/docs/assets/swagger-ui-bundle.js", "javascript"),
        ("/docs/assets/swagger-ui.css", "css"),
        ("/static/docs.js", "javascript"),
        ("/static/style.css", "css"),
        ("/static/icon.svg", "svg"),
    ):
        answer = await stranger(rest).http.get(path)
        assert (answer.status_code, kind in answer.headers["content-type"]) == (200, True)
        assert (
            await stranger(rest).http.get(path, headers={"If-None-Match": answer.headers["etag"]})
        ).status_code == 304


def test_a_session_is_read_by_every_replica_with_the_same_secret_until_it_is_over() -> None:
    now = time.time()
    one, other, foreign = SessionSigner("secret" * 5), SessionSigner("secret" * 5), SessionSigner(None)
    session = one.begin("id", "hash", now)
    cookie = one.cookie(session)
    assert other.read(cookie, now) == session
    assert other.is_form_token(session, one.form_token(session))
    assert foreign.read(cookie, now) is None
    assert one.read(cookie, now + SESSION_SECONDS + 1) is None
    assert one.form_token(session) != one.form_token(one.begin("id", "hash", now))


async def test_a_pages_stream_ends_with_its_session(rest: Rest) -> None:
    async with rest.context.database.snapshot() as session:
        key = await key_by_secret(session, KEY)
    assert key is not None
    login = rest.context.sessions.begin(key.id, hash_secret(KEY), time.time() - SESSION_SECONDS + 2)
    stream = _changes(rest.context, Visit(caller_of_key(key, ""), login, ""), None)
    assert (await anext(stream)).event == "over"


@pytest.mark.parametrize("change", ["", ".", "x", "é.é", "%00", "a.b.c.d", "AAAA." + "0" * 64])
def test_a_cookie_that_was_changed_is_none(change: str) -> None:
    signer = SessionSigner(None)
    cookie = signer.cookie(signer.begin("id", "hash"))
    assert signer.read(change) is None
    assert signer.read(cookie + change if change else cookie[:-1]) is None
    assert signer.read(change + cookie if change else cookie[1:]) is None
