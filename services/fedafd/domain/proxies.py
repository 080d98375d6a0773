"""The proxy that lies between this process and a host, by the variables that curl and others read.

`http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in small letters or capitals; gRPC has `grpc_proxy` and
`no_grpc_proxy` before them. This machine's own addresses are never behind a proxy.
"""

from __future__ import annotations

import ipaddress
import os
from typing import NamedTuple
from urllib.parse import urlsplit

from fedafd.domain.addresses import split_address

__all__ = ["Proxy", "is_loopback", "is_off_machine", "proxy_for"]

_VARIABLES = {
    "http": ("http_proxy", "all_proxy"),
    "https": ("https_proxy", "all_proxy"),
    "grpc": ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy"),
}
_EXCEPTIONS = {"grpc": ("no_grpc_proxy", "no_proxy")}


class Proxy(NamedTuple):
    """A proxy, and the variable that names it."""

    url: str
    variable: str

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS, which gRPC does not."""
        return self.url.lower().startswith("socks")

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        # A name and a password may stand before the host.
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]} ({self.variable})"


def proxy_for(scheme: str, host: str) -> Proxy | None:
    """The proxy to a host for http, https or grpc; None where the way is direct."""
    if is_loopback(host):
        return None
    exceptions = next(filter(None, map(_value, _EXCEPTIONS.get(scheme, ("no_proxy",)))), "")
    if any(_covers(pattern.strip().lower(), host.strip("[]").lower()) for pattern in exceptions.split(",")):
        return None
    for variable in _VARIABLES[scheme]:
        for name in (variable, variable.upper()):
            value = os.environ.get(name, "").strip()
            # A web server's HTTP_PROXY may come from a request: https://httpoxy.org
            if value and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ):
                return Proxy(value if "://" in value else f"http://{value}", name)
    return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by name or address."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def is_off_machine(address: str) -> bool:
    """Whether what is sent to, or comes in at, this host:port may be seen on a network: plain text is read there."""
    try:
        host, _ = split_address(address)
    except ValueError:  # a Unix socket, or a name of gRPC's own
        return False
    return not is_loopback(host)


def _covers(exception: str, host: str) -> bool:
    """Whether an entry of no_proxy (a host, a domain, an address, a network or *) covers a host."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(exception.strip("[]"), strict=False)
    except ValueError:
        name = exception.removeprefix("*").lstrip(".")
        return exception == "*" or (bool(name) and (host == name or host.endswith(f".{name}")))


def _value(variable: str) -> str:
    return os.environ.get(variable) or os.environ.get(variable.upper(), "")
