"""Only this machine's user, from the page itself, is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient
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
    for path in (*PATHS, "/style.css"):
        answer = stranger.get(path, params={"key": KEY}, headers={"host": host})
        assert answer.status_code == 421
        assert "north" not in answer.text and "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", PATHS)
def test_without_the_key_nothing_is_shown(stranger: TestClient, path: str) -> None:
    for given in ({}, {"key": "other"}, {"key": ""}, {"key": "é"}):
        answer = stranger.get(path, params=given, headers={"cookie": "fedafd-ui=other; x"})
        assert answer.status_code == 403 and "north" not in answer.text
    assert stranger.get("/style.css").status_code == 200


def test_the_key_leaves_the_address_for_a_cookie_of_this_page_alone(stranger: TestClient) -> None:
    answer = stranger.get("/", params={"key": KEY}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}


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
