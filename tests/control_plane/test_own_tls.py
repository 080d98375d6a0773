"""TLS that the control plane speaks itself, and what it publishes to everybody."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
from tests.certificates import Authority
from tests.control_plane.rest import Rest, in_process, listening, settings_for

from fedafd.control_plane.own_tls import OwnTls
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.domain.errors import ConfigurationError
from fedafd.storage import StoreSettings


def _settings(folder: Path, **more: object) -> ControlPlaneSettings:
    return settings_for(f"sqlite:///{folder}/own.db", StoreSettings(url=str(folder / "store")), **more)


def _trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


async def _health(url: str, verify: ssl.SSLContext | bool) -> int:
    """Asked on a connection of its own."""
    async with httpx.AsyncClient(verify=verify, timeout=20) as client:
        return (await client.get(f"{url}/healthz")).status_code


async def _secure_cookie(live: Rest) -> bool:
    key = live.http.headers["authorization"].removeprefix("Bearer ")
    answer = await live.http.post(f"{live.url}/login", data={"key": key})
    return "secure" in answer.headers["set-cookie"].lower()


async def test_requests_come_by_https_and_a_renewed_certificate_is_taken_without_a_start(tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    certificate, key = old.issue("server")
    settings = _settings(tmp_path, tls_certificate=certificate, tls_key=key)
    async with listening(settings, verify=_trusting(old)) as live:
        assert live.url.startswith("https://localhost:")
        assert (await live.http.get("/federations")).status_code == 200
        assert await _secure_cookie(live)
        with pytest.raises(httpx.TransportError):
            await _health(live.url.replace("https", "http"), True)
        fresh, its_key = new.issue("renewed")
        fresh.replace(certificate)
        # The two do not fit: what is in use stays.
        assert await _health(live.url, _trusting(old)) == 200
        its_key.replace(key)
        assert await _health(live.url, _trusting(new)) == 200
        with pytest.raises(httpx.ConnectError):
            await _health(live.url, _trusting(old))


def test_files_that_are_no_pair_are_refused_by_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "one")
    certificate, key = authority.issue("a")
    _, other = authority.issue("b")
    absent = tmp_path / "absent.pem"
    for pair, words in (
        ((certificate, other), "key values mismatch"),
        ((key, key), "not readable as pem"),
        ((absent, key), "No such file"),
        ((certificate, absent), "No such file"),
    ):
        with pytest.raises(ConfigurationError, match=words) as refused:
            OwnTls(*pair)
        assert str(pair[0]) in str(refused.value)
        assert str(pair[1]) in str(refused.value)
    with pytest.raises(ValueError, match="TLS_CERTIFICATE and TLS_KEY are needed together"):
        _settings(tmp_path, tls_certificate=certificate)


async def test_docs_and_metrics_are_published_by_choice(tmp_path: Path) -> None:
    paths = ["/docs", "/redoc", "/openapi.json", "/docs/assets/swagger-ui.css", "/metrics"]
    async with in_process(_settings(tmp_path)) as rest:
        assert {(await rest.http.get(f"http://test{path}")).status_code for path in paths} == {200, 307}
    async with in_process(_settings(tmp_path, publish_docs=False, publish_metrics=False)) as rest:
        assert {(await rest.http.get(f"http://test{path}")).status_code for path in paths} == {404}
        key = rest.http.headers["authorization"].removeprefix("Bearer ")
        await rest.http.post("http://test/login", data={"key": key})
        page = await rest.http.get("http://test/")
        assert page.status_code == 200
        assert "/docs" not in page.text
        assert "/docs" not in (await rest.http.get("/nowhere")).text
