"""Where an aggregator listens: for agents, for distillers, and for those who ask for its health alone.

Off loopback it speaks TLS: with the operator's certificate, else with one of its own authority. `plaintext: true` turns
that off where something in front ends TLS, and `false` has TLS on loopback, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc.aio
from cryptography import x509

from fedafd.aggregator.metrics import AggregatorMetrics
from fedafd.aggregator.settings import AggregatorSettings
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.proxies import is_off_machine
from fedafd.rpc.authority import Authority
from fedafd.rpc.own_tls import internal_credentials, internal_pair, own_credentials
from fedafd.rpc.tls import server_credentials
from fedafd.telemetry.logging import get_logger

__all__ = ["bind", "bind_health", "bind_internal", "watch_expiry"]

_log = get_logger(__name__)


def bind(server: grpc.aio.Server, settings: AggregatorSettings, authority: Authority) -> None:
    """Listen for agents, and for distillers where these have no listener of their own. Raises ConfigurationError."""
    internal = internal_pair(settings.internal_token.get_secret_value())
    if settings.tls_certificate and settings.tls_key:
        files = (settings.tls_certificate, settings.tls_key, settings.tls_client_authorities)
        credentials: grpc.ServerCredentials | None = server_credentials(*files, internal)
    elif is_off_machine(settings.listen) if settings.plaintext is None else not settings.plaintext:
        names = [name.strip() for name in settings.tls_names.split(",") if name.strip()]
        credentials = own_credentials(authority, names, internal)
    else:
        credentials = None
        _warn(settings)
    if credentials is None:
        _bound(lambda: server.add_insecure_port(settings.listen), "LISTEN", settings.listen)
    else:
        _bound(lambda: server.add_secure_port(settings.listen, credentials), "LISTEN", settings.listen)


def bind_internal(server: grpc.aio.Server, settings: AggregatorSettings, listen: str) -> None:
    """Listen for distillers alone, with TLS on both sides. Raises ConfigurationError."""
    credentials = internal_credentials(settings.internal_token.get_secret_value())
    _bound(lambda: server.add_secure_port(listen, credentials), "INTERNAL_LISTEN", listen)


def bind_health(server: grpc.aio.Server, listen: str) -> None:
    """Listen for questions about health, which are no secret, without TLS. Raises ConfigurationError."""
    _bound(lambda: server.add_insecure_port(listen), "HEALTH_LISTEN", listen)


def watch_expiry(metrics: AggregatorMetrics, settings: AggregatorSettings, authority: Authority) -> None:
    """Export when the authority and the operator's certificate for TLS expire; the file is read at each scrape."""
    expiry = metrics.certificate_expiry
    expiry.labels(certificate="authority").set(authority.certificate.not_valid_after_utc.timestamp())
    if settings.tls_certificate is not None:
        expiry.labels(certificate="tls").set_function(partial(_expiry_of, settings.tls_certificate))


def _expiry_of(path: Path) -> float:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return math.nan


def _warn(settings: AggregatorSettings) -> None:
    if is_off_machine(settings.listen):
        _log.warning(
            "aggregator.plaintext",
            listen=settings.listen,
            reason="no TLS, as FEDAFD_AGGREGATOR_PLAINTEXT says: credentials and models can be read and changed on the"
            " way, unless a proxy ends TLS in front and nobody sees what is behind it",
        )


def _bound(add: Callable[[], int], setting: str, listen: str) -> None:
    try:
        bound = add()
    except RuntimeError:
        bound = 0
    if not bound:
        raise ConfigurationError(f"FEDAFD_AGGREGATOR_{setting}: cannot listen on {listen}; is the port in use?")
