"""TLS files with their ends, and the line from a distiller, or from here, to the aggregator."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedafd.cli.doctor.findings import Finding, bad, fine, look
from fedafd.domain.addresses import split_address
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.proxies import is_loopback

if TYPE_CHECKING:
    from fedafd.aggregator.settings import AggregatorSettings
    from fedafd.distiller.settings import DistillerSettings
    from fedafd.domain.config import TlsConfig
    from fedafd.rpc.tls import Trust

__all__ = ["look_at_aggregators_files", "look_at_line"]

_SECONDS = 5.0
_SOON_DAYS = 21
_MOST_SKEW_SECONDS = 60.0


def look_at_aggregators_files(settings: AggregatorSettings) -> Iterator[Finding]:
    """The certificate that the aggregator shows, and whom it trusts."""
    from fedafd.rpc.tls import server_credentials

    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        host, _ = split_address(settings.listen)
        if is_loopback(host):
            yield fine("certificates", f"the aggregator listens on {host} alone, without TLS")
        else:
            yield _without_files(settings)
        return
    try:
        server_credentials(certificate, key, settings.tls_client_authorities)
    except ConfigurationError as error:
        yield bad("certificates", str(error), "docs/tls.md makes them")
        return
    yield _own("the aggregator's certificate", certificate, key)


def _without_files(settings: AggregatorSettings) -> Finding:
    if not settings.plaintext:
        return fine("certificates", f"the aggregator listens on {settings.listen} with a certificate of its authority")
    remedy = "leave FEDAFD_AGGREGATOR_PLAINTEXT out (docs/tls.md), unless a proxy ends TLS"
    return look("certificates", f"the aggregator listens on {settings.listen} without TLS", remedy)


def _own(whose: str, certificate: Path, key: Path) -> Finding:
    from fedafd.rpc.certificates import own_certificate_end

    try:
        return _end(f"{whose} {certificate}", own_certificate_end(certificate, key))
    except ssl.SSLError as error:
        words = "has expired" if "expired" in str(error) else f"cannot be used: {error.reason}"
        return bad("certificates", f"{whose} {certificate} {words}", "renew it; it is taken up without a restart")


def _end(whose: str, ends: datetime) -> Finding:
    days = (ends - datetime.now(UTC)).days
    words = f"{whose} is valid until {ends:%Y-%m-%d}, {days} days from now"
    if days < _SOON_DAYS:
        return look("certificates", words, "renew it; it is taken up without a restart")
    return fine("certificates", words)


def look_at_line(settings: DistillerSettings) -> Iterator[Finding]:
    """Whether a distiller here reaches the aggregator, what it shows, and what time it has."""
    from fedafd.distiller.settings import line_to_aggregator
    from fedafd.rpc.tls import channel_credentials

    tls = settings.tls
    if tls is not None:
        try:
            channel_credentials(tls)
        except ConfigurationError as error:
            yield bad("certificates", f"distiller: {error}", "docs/tls.md makes them")
            return
        if tls.certificate is not None and tls.key is not None:
            yield _own("the distiller's certificate", tls.certificate, tls.key)
    yield from _asked(settings.aggregator, line_to_aggregator(settings))


def _asked(address: str, tls: TlsConfig | Trust | None) -> Iterator[Finding]:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from fedafd.rpc.certificates import server_certificate_end
    from fedafd.rpc.channel import open_sync_channel, way_to
    from fedafd.rpc.clock import CLOCK_KEY
    from fedafd.rpc.status import error_from_rpc
    from fedafd.rpc.tls import Trust as InMemory

    with open_sync_channel(address, tls) as channel:
        request = health_pb2.HealthCheckRequest(service="fedafd.v1.DistillationService")
        try:
            answer, call = health_pb2_grpc.HealthStub(channel).Check.with_call(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            words = f"the aggregator at {address}: {error_from_rpc(error)}{way_to(address)}"
            remedy = "start it: `fedafd aggregator`; else correct FEDAFD_DISTILLER_AGGREGATOR or its TLS settings"
            yield bad("aggregator", words, remedy)
            return
    here = time.time()
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        yield fine("aggregator", f"{address}: answers and can serve")
    else:
        yield bad("aggregator", f"{address}: answers, but cannot serve", "see its log: its database or store is away")
    their_time = dict(call.trailing_metadata() or ()).get(CLOCK_KEY)
    skew = here - float(their_time) if their_time is not None else 0.0
    if abs(skew) > _MOST_SKEW_SECONDS:
        side = "ahead of" if skew > 0 else "behind"
        yield look("clock", f"{abs(skew):.0f} s {side} the aggregator's", "set both by NTP: certificates depend on it")
    if tls is not None and not isinstance(tls, InMemory):
        host, port = split_address(address)
        try:
            yield _end("the certificate that the aggregator shows", server_certificate_end(tls, host, port, _SECONDS))
        except OSError:
            return  # no direct way, as through a proxy; the call above went through
