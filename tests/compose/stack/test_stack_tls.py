"""deploy/compose/tls.yml for real: REST and gRPC over TLS, and nothing without it."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.compose.stack.docker import NEEDS_DOCKER, SERVICES, Stack, fresh_stack
from tests.compose.stack.rounds import completed, fedafd
from tests.servers import ROOT

from fedafd.client.federation import FederationClient

pytestmark = [pytest.mark.timeout(1200), NEEDS_DOCKER]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with fresh_stack(tmp_path_factory.mktemp("compose-tls"), "tls") as stack:
        stack.serve_tls()
        stack.compose("build", "--quiet", seconds=1800)
        yield stack


@pytest.fixture(scope="module")
def authority(stack: Stack) -> Path:
    return stack.tls_authority


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Path:
    """An authority that signed nothing here."""
    return stack.make_certificates("another") / "tls_authority.pem"


def test_it_comes_up_healthy(stack: Stack) -> None:
    with stack.timed("up_seconds"):
        stack.up()
    containers = stack.containers()
    for service in (*SERVICES, "rest-tls"):
        assert containers[service]["State"]["Health"]["Status"] == "healthy", service


def asked(stack: Stack, url: str, authority: Path) -> httpx.Response:
    headers = {"Authorization": f"Bearer {stack.admin_key}"}
    return httpx.get(url, headers=headers, verify=ssl.create_default_context(cafile=str(authority)), timeout=30)


def test_rest_answers_over_https_to_those_who_trust_the_authority(stack: Stack, authority: Path) -> None:
    answer = asked(stack, f"{stack.url}/v1/federations", authority)
    assert [each["name"] for each in answer.json()["items"]] == ["local"]
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    for inside in ("/metrics", "/healthz", "/readyz", "/metrics/", "/%6detrics", "/%68ealthz", "/ready%7a"):
        assert asked(stack, f"{stack.url}{inside}", authority).status_code == 404


def test_another_authority_is_refused(stack: Stack, stranger: Path) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        asked(stack, f"{stack.url}/v1/federations", stranger)


def test_plain_http_is_refused(stack: Stack, authority: Path) -> None:
    with pytest.raises(httpx.HTTPError):
        asked(stack, f"{stack.url.replace('https', 'http')}/v1/federations", authority)


def health(stack: Stack, scheme: str, *options: str) -> subprocess.CompletedProcess[str]:
    url = f"{scheme}://127.0.0.1:{stack.environment['FEDAFD_GRPC_PORT']}"
    command = [sys.executable, "-m", "fedafd.cli.main", "health", url, *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=stack.environment, timeout=60
    )


def test_the_aggregator_speaks_tls_only(stack: Stack, authority: Path, stranger: Path) -> None:
    done = health(stack, "grpcs", "--authorities", str(authority))
    assert done.returncode == 0, done.stderr
    wrong = health(stack, "grpcs", "--authorities", str(stranger))
    assert wrong.returncode == 1
    assert "not signed by an authority that is trusted here" in wrong.stderr
    assert health(stack, "grpc").returncode == 1
    # From where an agent stands, too: what it sends in the round below goes over TLS.
    inside = stack.exec("agent-texts", "fedafd", "health", "grpc://aggregator:7443")
    assert inside.returncode == 1, inside.stdout


def test_a_round_started_over_https_completes(stack: Stack, authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stack.timed("round_seconds"):
        fedafd(stack, "round", "start", "--watch", SSL_CERT_FILE=str(authority))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    rest = FederationClient(stack.url, stack.admin_key, "local")
    completed(rest, 1)
    rest.close()


def test_down_v_leaves_nothing(stack: Stack) -> None:
    stack.compose("down", "--volumes")
    assert stack.leftovers() == []
