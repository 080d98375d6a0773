"""Only this machine's user, from the page itself, is answered."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from starlette.testclient import TestClient
from tests.agent.ui.served import served
from tests.agent.ui.site import after_two_rounds, site_config
from tests.agent.ui.test_page import HOST, KEY, Visitor, visiting

from fedafd.agent.ui.app import create_app
from fedafd.agent.ui.server import serve
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind

PATHS = ("/", "/sent", "/sheet.png", "/pictures/val/0.png", "/model", "/elsewhere")


@pytest.fixture
def stranger(tmp_path: Path) -> TestClient:
    config = after_two_rounds(site_config(tmp_path, ClientKind.TEXT), model=False)
    return TestClient(create_app(config, hosts=frozenset({HOST}), key=KEY), base_url=f"http://{HOST}")


@pytest.mark.parametrize(
    "host", ["evil.example:8765", "127.0.0.1", "127.0.0.1:1", "evil.example", "", "127.0.0.1:8765.x"]
)
def test_another_host_is_refused_even_with_the_key(stranger: TestClient, host: str) -> None:
    for path in (*PATHS, "/style.css", inside(stranger)):
        answer = stranger.get(path, params={"key": KEY}, headers={"host": host})
        assert answer.status_code == 421
        assert "north" not in answer.text and "set-cookie" not in answer.headers


def inside(stranger: TestClient) -> str:
    """The path that everything lies below, as one who has the key is told it."""
    answer = stranger.get("/", params={"key": KEY}, follow_redirects=False)
    stranger.cookies.clear()
    return answer.headers["location"].rstrip("/")


@pytest.mark.parametrize("path", PATHS)
def test_without_the_key_nothing_is_shown(stranger: TestClient, path: str) -> None:
    for below in ("", inside(stranger), "/elsewhere"):
        for given in ({}, {"key": "other"}, {"key": ""}, {"key": "é"}):
            answer = stranger.get(below + path, params=given, headers={"cookie": "fedafd-ui=other; x; fedafd-ui"})
            assert answer.status_code == 403 and "north" not in answer.text


@pytest.mark.parametrize("path", [*PATHS, "/style.css"])
def test_with_the_key_alone_and_not_the_path_nothing_is_shown(stranger: TestClient, path: str) -> None:
    cookie = {"cookie": f"fedafd-ui={KEY}"}
    for below in ("", "/", "/x", f"/{KEY}", inside(stranger)[:-1], inside(stranger) + "x"):
        answer = stranger.get(below + path, headers=cookie)
        assert answer.status_code == 403 and "north" not in answer.text
    assert stranger.get(f"{inside(stranger)}/", headers=cookie).status_code == 200


def test_a_cookie_that_another_port_planted_does_not_lock_the_page(stranger: TestClient) -> None:
    for cookies in (f"fedafd-ui={KEY}; fedafd-ui=planted", f"fedafd-ui=planted; fedafd-ui={KEY}"):
        assert stranger.get(f"{inside(stranger)}/", headers={"cookie": cookies}).status_code == 200


def test_the_key_leaves_the_address_for_a_cookie_of_this_page_alone(stranger: TestClient) -> None:
    answer = stranger.get("/", params={"key": KEY}, follow_redirects=False)
    assert answer.status_code == 303
    where = answer.headers["location"]
    assert re.fullmatch(r"/[\w-]{40,}/", where)
    parts = {part.strip() for part in answer.headers["set-cookie"].split(";")}
    assert {"HttpOnly", "SameSite=strict", f"Path={where}"} <= parts


class Another(BaseHTTPRequestHandler):
    """What somebody else of the machine listens with, to keep what browsers send."""

    cookies: tuple[str, ...] = ()

    def do_GET(self) -> None:
        Another.cookies += tuple(self.headers.get_all("cookie", []))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def another_port() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Another) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_whoever_listens_on_another_port_of_the_machine_gets_nothing_that_opens_the_page(tmp_path: Path) -> None:
    """Cookies do not tell ports apart: a browser that is led to that port sends it what was set for the address."""
    config = after_two_rounds(site_config(tmp_path, ClientKind.TEXT), model=False)
    browser = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
    stranger = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with served(config, tmp_path) as address, another_port() as other:
        origin = address.partition("/?")[0]
        with browser.open(address, timeout=30) as answer:
            assert b"north" in answer.read()
        for path in (*PATHS, "/style.css"):
            browser.open(other + path, timeout=30).close()
        for cookie in ("", *Another.cookies):
            for path in PATHS:
                asked = urllib.request.Request(origin + path, headers={"cookie": cookie})
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    stranger.open(asked, timeout=30)
    assert Another.cookies == ()


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_form_of_another_page_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    with visiting(after_two_rounds(site_config(tmp_path, ClientKind.TEXT), model=False)) as visitor:
        for path in ("/model", "/look", "/pictures"):
            answer = visitor.post(path, files={"token": (None, visitor.token())}, headers=headers)
            assert answer.status_code == 403
        own = {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}
        assert visitor.post("/model", files={"token": (None, visitor.token())}, headers=own).status_code == 200


def test_a_form_without_its_token_is_refused(tmp_path: Path) -> None:
    with visiting(site_config(tmp_path, ClientKind.TEXT)) as visitor:
        for path in ("/model", "/look", "/pictures"):
            for token in ("", "other", "é"):
                assert visitor.post(path, files={"token": (None, token)}).status_code == 403


def test_every_answer_forbids_scripts_frames_and_copies(tmp_path: Path) -> None:
    with visiting(site_config(tmp_path, ClientKind.TEXT)) as visitor:
        answers = [visitor.get(path) for path in (*PATHS, "/style.css", "/icon.svg")]
        assert answers[-1].status_code == 200
        answers.append(Visitor(visitor.app, base_url=f"http://{HOST}").get("/"))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "", "::ffff:8.8.8.8"])
def test_an_address_that_others_reach_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="this machine alone"):
        serve(site_config(tmp_path, ClientKind.TEXT), host=host, port=0, ready=lambda _: None)
