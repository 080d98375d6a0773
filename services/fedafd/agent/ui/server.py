"""Serves the page on a loopback address, until it is interrupted."""

from __future__ import annotations

import ipaddress
import secrets
import signal
import socket
from collections.abc import Callable

import uvicorn

from fedafd.agent.ui.app import create_app
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import ConfigurationError

__all__ = ["serve"]

_GRACE_SECONDS = 2


def serve(config: AgentConfig, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve one site's page; `ready` is told its address, key included. Port 0 takes any that is free.

    Raises ConfigurationError for an address that other machines could reach, or that is taken.
    """
    address = _loopback(host)
    with _listening(address, port) as listener:
        port = listener.getsockname()[1]
        shown = f"[{address}]" if address.version == 6 else str(address)
        key, cookie = secrets.token_urlsafe(32), f"fedafd-ui-{port}"  # cookies do not tell ports apart
        hosts = frozenset(f"{name}:{port}" for name in (shown, "localhost"))
        app = create_app(config, hosts=hosts, key=key, cookie=cookie)
        # uvicorn ends gracefully and then raises the signal again; that would end us by it, and not with exit code 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        ready(f"http://{shown}:{port}/?key={key}")
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        uvicorn.Server(settings).run(sockets=[listener])


def _loopback(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise ConfigurationError(
            f"--host {host}: the page shows private data and is for this machine alone; it listens on 127.0.0.1 or ::1."
            " From another machine: ssh -L 8765:127.0.0.1:8765 and open the address there"
        )
    return address


def _listening(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        # At once: until somebody listens, SO_REUSEADDR lets another user of the machine bind the port, too.
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"{address} port {port}: cannot be listened on: {error.strerror}; name another with --port"
        ) from None
    return listener
