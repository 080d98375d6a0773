"""Which proxy lies before a host: by the variables, with exceptions, and never before this machine itself."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.domain.proxies import is_loopback, proxy_for

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("scheme", "variables", "found"),
    [
        ("http", {"http_proxy": "http://p:1"}, "http://p:1 (http_proxy)"),
        ("http", {"https_proxy": "http://p:1"}, None),
        ("https", {"HTTPS_PROXY": "p:1"}, "http://p:1 (HTTPS_PROXY)"),
        ("http", {"ALL_PROXY": "socks5://p:1"}, "socks5://p:1 (ALL_PROXY)"),
        ("http", {"all_proxy": "socks5://p:1", "http_proxy": "http://q:2"}, "http://q:2 (http_proxy)"),
        ("grpc", {"http_proxy": "http://p:1"}, "http://p:1 (http_proxy)"),
        ("grpc", {"http_proxy": "http://p:1", "grpc_proxy": "http://g:3"}, "http://g:3 (grpc_proxy)"),
        ("http", {"http_proxy": "http://user:secret@p:1"}, "http://p:1 (http_proxy)"),
        ("http", {"http_proxy": "http://p:1", "no_proxy": "example.org"}, None),
        ("http", {"http_proxy": "http://p:1", "NO_PROXY": "other.net, .example.org"}, None),
        ("http", {"http_proxy": "http://p:1", "no_proxy": "*"}, None),
        ("http", {"http_proxy": "http://p:1", "no_proxy": "ample.org"}, "http://p:1 (http_proxy)"),
        ("grpc", {"http_proxy": "http://p:1", "no_grpc_proxy": "site.example.org"}, None),
        ("http", {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, None),
        ("http", {}, None),
    ],
)
def test_the_variables_say_which_proxy(
    monkeypatch: pytest.MonkeyPatch, scheme: str, variables: dict[str, str], found: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(scheme, "site.example.org")
    assert (None if proxy is None else str(proxy)) == found


def test_exceptions_may_be_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv("no_proxy", "10.0.0.0/8,fd00::/8")
    assert proxy_for("http", "10.3.2.1") is None
    assert proxy_for("grpc", "[fd00::1]") is None
    assert proxy_for("http", "11.3.2.1") is not None


@settings(max_examples=50, deadline=None)
@given(
    host=st.one_of(
        st.ip_addresses(v=4, network="127.0.0.0/8").map(str),
        st.sampled_from(["localhost", "LOCALHOST", "localhost.", "x.localhost", "::1", "[::1]", "::ffff:127.0.0.1"]),
    ),
    scheme=st.sampled_from(["http", "https", "grpc"]),
)
def test_this_machine_is_never_behind_a_proxy(host: str, scheme: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES[:3]:
            patch.setenv(name, "http://127.0.0.1:9")
        if not host.startswith("::ffff"):
            assert is_loopback(host)
            assert proxy_for(scheme, host) is None
        assert proxy_for(scheme, "192.0.2.1") is not None
    assert "http_proxy" not in os.environ
