"""A listening socket that takes so many connections of an address and of all, and closes further ones at once.

They are counted before a handshake begins: one that never ends holds memory and a file descriptor, and is none of
HTTP's business. It is ended after 20 s, as by the aggregator.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from fedafd.control_plane.failed_logins import network_of
from fedafd.domain.errors import ConfigurationError
from fedafd.telemetry.logging import get_logger

__all__ = ["Connections", "HandshakesInTime", "listeners"]

_REFUSED_AT_ONCE = 64
_HANDSHAKE_SECONDS = 20.0
_log = get_logger(__name__)


class HandshakesInTime(asyncio.SelectorEventLoop):
    """Ends TLS handshakes that take longer. asyncio gives them a minute, and uvicorn has no setting for it."""

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        """As asyncio's own."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = _HANDSHAKE_SECONDS
        return await super().create_server(*arguments, **options)


class Connections:
    """Those that are open, by address; `trusted` proxies bring many callers' and have no limit of their own."""

    def __init__(self, *, most: int, of_an_address: int, trusted: str = "") -> None:
        self._most, self._of_an_address = most, of_an_address
        self._trusted: Sequence[IPv4Network | IPv6Network] = [
            ip_network(network.strip()) for network in trusted.split(",") if network.strip()
        ]
        self._open: Counter[str] = Counter()
        self._total = 0

    def begin(self, address: str) -> bool:
        """Count one more; False where that would be too many."""
        network = network_of(address)
        too_many = self._open[network] >= self._of_an_address and not self._is_trusted(address)
        if too_many or self._total >= self._most:
            _log.warning("connections.refused", address=network, open=self._open[network], open_of_all=self._total)
            return False
        self._open[network] += 1
        self._total += 1
        return True

    def end(self, address: str) -> None:
        """One is closed."""
        network = network_of(address)
        self._total -= 1
        self._open[network] -= 1
        if not self._open[network]:
            del self._open[network]

    def _is_trusted(self, address: str) -> bool:
        parsed = ip_address(address.partition("%")[0])
        return any(parsed in network for network in self._trusted)


class _Connection(socket.socket):
    """Is counted until it is closed, or forgotten."""

    ended: weakref.finalize[[str], _Connection] | None = None

    def close(self) -> None:
        super().close()
        if self.ended is not None:
            self.ended()


class _Listener(socket.socket):
    connections: Connections

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that is not one too many. Raises BlockingIOError where there is none."""
        for _ in range(_REFUSED_AT_ONCE):
            accepted, address = super().accept()
            if self.connections.begin(address[0]):
                connection = _Connection(fileno=accepted.detach())
                connection.ended = weakref.finalize(connection, self.connections.end, address[0])
                return connection, address
            accepted.close()
        raise BlockingIOError


def listeners(host: str, port: int, connections: Connections) -> list[socket.socket]:
    """Bound to each address of `host`, not listening yet. Raises ConfigurationError where that cannot be."""
    bound: list[_Listener] = []
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            listener = _Listener(family, kind, protocol)
            bound.append(listener)
            listener.connections = connections
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
    except OSError as error:
        for opened in bound:
            opened.close()
        raise ConfigurationError(
            f"FEDAFD_CONTROL_PLANE_HOST, _PORT: cannot listen on {host}:{port}: {error.strerror}"
        ) from None
    return [*bound]
