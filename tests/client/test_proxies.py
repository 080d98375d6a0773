"""Commands behind a proxy: named where it is in the way, and never used to reach this machine itself."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from fedafd.cli.main import app
from fedafd.client import operations
from fedafd.client.control_plane import ControlPlaneClient
from fedafd.client.http import make_client
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.process_errors import ControlPlaneUnreachableError

NOBODY = "http://127.0.0.1:9"
VARIABLES = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]


@pytest.fixture
def own_server() -> Any:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"items": [], "next_cursor": null}')

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_plain_http_to_this_machine_reads_no_authorities(own_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a core longer than the request, and each look at what is starting, or is healthy, is a client's."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/authorities.pem")
    server = ControlPlaneClient(f"http://127.0.0.1:{own_server}", "key")
    assert server.items(operations.LIST_FEDERATIONS) == []
    server.close()
    with pytest.raises(FileNotFoundError):
        make_client(f"https://127.0.0.1:{own_server}")


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("proxy", [NOBODY, "socks5://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_this_machine_is_reached_without_the_proxy(
    own_server: int, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str
) -> None:
    monkeypatch.setenv(variable, proxy)
    server = ControlPlaneClient(f"http://127.0.0.1:{own_server}", "key")
    assert server.items(operations.LIST_FEDERATIONS) == []
    server.close()
    assert CliRunner().invoke(app, ["health", f"http://localhost:{own_server}/readyz"]).exit_code == 0


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("proxy", [NOBODY, "socks5://127.0.0.1:9"])
def test_a_proxy_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str) -> None:
    monkeypatch.setenv(variable, proxy)
    named = rf"through the proxy {proxy} \({variable}\)"
    server = ControlPlaneClient("http://fedafd.invalid:8080", "key")
    with pytest.raises(
        ControlPlaneUnreachableError, match=rf"http://fedafd.invalid:8080: cannot be reached, {named} \("
    ):
        server.send(operations.PUSH_PUBLIC_SET, "trial", content=b"")
    server.close()
    for url in ("http://fedafd.invalid:8080/readyz",) if proxy == NOBODY else ():
        result = CliRunner().invoke(app, ["health", url, "--timeout", "5"])
        assert f"no answer, through the proxy {proxy} ({variable})" in str(result.exception)


def test_grpc_health_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NOBODY)
    result = CliRunner().invoke(app, ["health", "grpc://fedafd.invalid:7443", "--timeout", "5"])
    assert f"through the proxy {NOBODY} (http_proxy)" in str(result.exception)


def test_a_proxy_of_no_known_kind_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "nonsense://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match=r"through the proxy nonsense://127.0.0.1:9 \(all_proxy\) cannot be"):
        ControlPlaneClient("http://fedafd.invalid:8080", "key")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999", "http://127.0.0.1:0", "ftp://h", "h:8080", "http://", "http://[::1"]
)
def test_a_url_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(ConfigurationError, match="--url"):
        ControlPlaneClient(url, "key")
