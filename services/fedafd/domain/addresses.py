"""Network addresses in settings and files: host:port, checked where they are read, so that no port wraps around.

Sockets and gRPC take a port modulo 65536 and dial another one; nothing here does.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

__all__ = [
    "DialAddress",
    "ListenAddress",
    "OriginUrl",
    "StoreEndpoint",
    "UrlWithPort",
    "checked_url_port",
    "split_address",
]

_ADDRESS = re.compile(r"^(?:dns:///)?(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]+)$")
_PORT = re.compile(r":([0-9]+)$")
_LAST_PORT = 65535


def split_address(address: str) -> tuple[str, int]:
    """Host, without an IPv6 address's brackets, and port. Raises ValueError saying what is allowed."""
    parts = _ADDRESS.match(address)
    if parts is None:
        raise ValueError(f"must be host:port, such as example.org:7443 or [::1]:7443; found {address[:200]!r}")
    port = int(parts[2][:9])
    if not 1 <= port <= _LAST_PORT:
        raise ValueError(f"port must be 1 to {_LAST_PORT}; found {parts[2][:9]}")
    return parts[1].strip("[]"), port


def _address(address: str) -> str:
    split_address(address)
    return address


def checked_url_port(url: str) -> str:
    """`url`, if its hosts name no port or one that there is. Raises ValueError."""
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    for port in (port_match[1] for host in hosts if (port_match := _PORT.search(host))):
        if not 1 <= int(port[:9]) <= _LAST_PORT:
            raise ValueError(f"the port must be 1 to {_LAST_PORT}; found {port[:9]}")
    return url


def _origin(url: str) -> str:
    parts = urlsplit(checked_url_port(url))
    if parts.scheme not in ("http", "https") or not parts.hostname or url != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(
            f"must be http:// or https://, a host and perhaps a port, and nothing more; found {url[:200]!r}"
        )
    if "@" in parts.netloc:
        raise ValueError("must name nobody before the host")
    return url


DialAddress = Annotated[str, AfterValidator(_address)]
"""host:port to call; IPv6 in brackets; gRPC's prefix dns:/// is allowed."""
ListenAddress = Annotated[str, AfterValidator(_address)]
"""host:port to listen on."""
StoreEndpoint = Annotated[str, AfterValidator(lambda name: checked_url_port(f"//{name}") and name)]
"""host or host:port."""
UrlWithPort = Annotated[str, AfterValidator(checked_url_port)]
"""A URL whose port, if it names one, is one."""
OriginUrl = Annotated[str, AfterValidator(_origin)]
"""http:// or https://, a host and perhaps a port."""
