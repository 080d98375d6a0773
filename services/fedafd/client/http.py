"""HTTP connections: through a proxy where the variables name one, never to this machine itself."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from fedafd.domain.errors import ConfigurationError
from fedafd.domain.proxies import is_loopback, proxy_for

__all__ = ["checked_url", "make_client", "trust_in", "way_to"]


def checked_url(url: str, option: str) -> str:
    """`url`, if it is one of http or https with a host and a port that there is. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ConfigurationError(f"{option} {url[:200]}: {error}") from None
    if not good:
        raise ConfigurationError(
            f"{option} {url[:200]}: must start with http:// or https:// and name a host; a port is from 1 to 65535"
        )
    return url


def make_client(url: str, *, trust: ssl.SSLContext | None = None, **options: Any) -> httpx.Client:
    """A client for `url`. `trust`: in place of the usual authorities.

    Raises ConfigurationError for a proxy that cannot be used, naming its variable.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        # A transport of our own: httpx looks at no variable for proxies then, and still at those for certificates.
        # For http it trusts nobody: the authorities take 25 ms of a core to read, which is more than a request.
        empty = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        usual = trust or (empty if parts.scheme == "http" else httpx.create_ssl_context())
        return httpx.Client(transport=httpx.HTTPTransport(verify=usual), **options)
    if trust is not None:
        options["verify"] = trust
    try:
        return httpx.Client(**options)
    except (ValueError, ImportError) as error:
        raise ConfigurationError(
            f"{url}: {way_to(url).strip(' ,') or 'the proxy'} cannot be used: {error}; correct the variable, or except"
            " the host with no_proxy"
        ) from None


def trust_in(certificate: Path) -> ssl.SSLContext:
    """Trust in whoever shows the certificate in that PEM file, by whatever name it is dialled: for a server of ours.

    Raises OSError for a file that cannot be read, or is none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context


def way_to(url: str) -> str:
    """What stands between this process and `url`, for the text of an error; empty if nothing does."""
    parts = urlsplit(url)
    proxy = proxy_for(parts.scheme, parts.hostname or "")
    return "" if proxy is None else f", through the proxy {proxy}"
