"""How many connections an address, and all of them, may have open with a control plane: a real process."""

from __future__ import annotations

import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from tests.certificates import Authority
from tests.databases import migrated
from tests.end_to_end.supervised import LoggedSupervisor
from tests.servers import wait_until

from fedafd.control_plane.connections import Connections, listeners
from fedafd.domain.errors import ConfigurationError
from fedafd.local.services import Backends, Services
from fedafd.local.supervisor import Child

SHELL_LIMIT, SILENT, OF_AN_ADDRESS = 128, 200, 150
"""What a shell gives in descriptors, made smaller; what is tried; what one address may have."""
STRANGER = "127.0.0.2"
LONGEST_SECONDS = 40.0
"""Until a handshake that does not end is ended: 20 s, and what a busy machine takes."""


@pytest.fixture
def https(tmp_path: Path, redis_url: str) -> Iterator[tuple[Child, str, Path]]:
    """A control plane that was started where a process has few descriptors, its URL, and whom to trust for it."""
    authority = Authority(tmp_path, "test")
    certificate, key = authority.issue("server")
    settings = {
        "TLS_CERTIFICATE": str(certificate),
        "TLS_KEY": str(key),
        "CONNECTIONS_PER_ADDRESS": str(OF_AN_ADDRESS),
    }
    backends = Backends(
        database_url=f"sqlite:///{tmp_path}/test.db", redis_url=redis_url, store={"URL": str(tmp_path / "store")}
    )
    migrated(backends.database_url)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        services = Services(
            supervisor,
            backends,
            http_port=None,
            threads=1,
            settings={f"FEDAFD_CONTROL_PLANE_{name}": value for name, value in settings.items()},
        )
        resource.setrlimit(resource.RLIMIT_NOFILE, (SHELL_LIMIT, hard))
        try:
            control_plane = services.start_control_plane()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        url = services.url.replace("127.0.0.1", "localhost")
        wait_until(lambda: _is_healthy(control_plane, url, authority.file), "the control plane", 60)
        yield control_plane, url, authority.file


def _is_healthy(control_plane: Child, url: str, trusted: Path) -> bool:
    control_plane.check()
    try:
        return httpx.get(f"{url}/healthz", verify=ssl.create_default_context(cafile=trusted), timeout=10).is_success
    except httpx.HTTPError:
        return False


def test_silent_connections_of_a_stranger_keep_nobody_else_out(https: tuple[Child, str, Path]) -> None:
    """A handshake that never begins holds a descriptor and 300 kB, and was limited by nothing."""
    control_plane, url, trusted = https
    port = int(url.rpartition(":")[2])
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10, (STRANGER, 0))) for _ in range(SILENT)
        ]
        assert _is_healthy(control_plane, url, trusted)
        refused = 0
        for each in silent:
            each.settimeout(0.02)
            try:
                refused += each.recv(1) == b""
            except ConnectionError:
                refused += 1
            except TimeoutError:
                continue
        assert refused == SILENT - OF_AN_ADDRESS
    text = control_plane.log.read_text(encoding="utf-8")
    assert "connections.refused" in text and "Too many open files" not in text

    def is_let_in() -> bool:
        with socket.create_connection(("127.0.0.1", port), 10, (STRANGER, 0)) as again:
            again.settimeout(0.2)
            try:
                return again.recv(1) != b""
            except TimeoutError:
                return True
            except ConnectionError:
                return False

    wait_until(is_let_in, "a place for the stranger")


def test_handshakes_that_never_end_are_ended_in_time(https: tuple[Child, str, Path]) -> None:
    """asyncio gives each a minute. One says nothing, one sends its first record a byte at a time."""
    _, url, _ = https
    port = int(url.rpartition(":")[2])
    silent, slow = (socket.create_connection(("127.0.0.1", port), 10) for _ in range(2))
    slow.send(b"\x16\x03\x01\x40\x00\x01")  # the begin of a client's hello of 16 KiB
    started, waiting = time.monotonic(), {silent, slow}
    while waiting and time.monotonic() - started < LONGEST_SECONDS:
        with suppress(OSError):
            slow.send(b"\0")
        waiting = {each for each in waiting if not _is_closed(each)}
        time.sleep(0.5)
    for each in (silent, slow):
        each.close()
    assert not waiting


def _is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.2)
    try:
        return connection.recv(1024) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_trusted_proxies_have_the_limit_of_all_alone() -> None:
    connections = Connections(most=5, of_an_address=2, trusted="127.0.0.1, ::1,10.0.0.0/8")
    assert [connections.begin("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert [connections.begin("10.1.2.3") for _ in range(4)] == [True, True, True, False]
    assert not connections.begin("::1")
    connections.end("192.0.2.1")
    assert connections.begin("192.0.2.1") and not connections.begin("192.0.2.1")
    for address in (*2 * ["192.0.2.1"], *3 * ["10.1.2.3"]):
        connections.end(address)
    # Addresses of one network of version 6 are one holder's.
    assert [connections.begin(f"2001:db8::{number}") for number in range(3)] == [True, True, False]


def test_a_port_that_is_taken_is_told_with_the_settings_name() -> None:
    limits = Connections(most=5, of_an_address=2)
    (taken,) = listeners("127.0.0.1", 0, limits)
    with taken:
        taken.listen()
        with pytest.raises(ConfigurationError, match="FEDAFD_CONTROL_PLANE_HOST, _PORT: cannot listen on 127.0.0.1"):
            listeners("127.0.0.1", taken.getsockname()[1], limits)
