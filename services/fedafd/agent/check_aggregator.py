"""Whether the aggregator answers, whom its certificate names and until when, and whether both clocks agree.

Asks for health alone, which needs no credential: nothing of the site leaves, and no token is spent.
"""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedafd.agent.exit_codes import ExitCode
from fedafd.agent.findings import Finding, error, fine, warning
from fedafd.agent.line import with_line
from fedafd.domain.config import AgentConfig, TlsConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.process_errors import UnreachableError
from fedafd.rpc.certificates import own_certificate_end, server_certificate_end
from fedafd.rpc.channel import open_sync_channel, way_to
from fedafd.rpc.clock import CLOCK_KEY
from fedafd.rpc.status import error_from_rpc
from fedafd.rpc.tls import channel_credentials

__all__ = ["check_aggregator", "check_tls_files"]

_ABOUT = "aggregator"
_SECONDS = 10.0
_MOST_SKEW_SECONDS = 60.0
_SOON_DAYS = 21
_UNKNOWN = "not signed by an authority that is trusted here"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_PLAIN = {
    "connection refused": "no answer: nothing listens there; are host and port right, and does it run?",
    "deadline exceeded": "no answer in time; does a firewall let connections out to this port?",
    "dns resolution failed": "no such host; is the name right?",
    "name or service not known": "no such host; is the name right?",
    "domain name not found": "no such host; is the name right?",
}
"""What gRPC says, by a part of it, and what it means."""


def check_aggregator(config: AgentConfig, *, seconds: float = _SECONDS) -> list[Finding]:
    """What an agent would meet at `aggregator`."""
    by_token = config.tls is None
    config = with_line(config, config.state_dir, None)
    try:
        findings = _health(config, seconds)
        if by_token and any(_UNKNOWN in finding.text for finding in findings):
            # No token has named its authority yet.
            known = "speaks TLS; who it is, is told by the authority that the invitation's token names"
            return [fine(_ABOUT, f"{config.aggregator}: {known}")]
    except ConfigurationError as wrong:  # TLS files
        return [error("TLS", str(wrong), ExitCode.CONFIGURATION)]
    return [*findings, *_security(config, seconds)]


def check_tls_files(config: AgentConfig) -> list[Finding]:
    """Whether the files that `tls` names can be used; connects to nobody."""
    try:
        if config.tls is not None:
            channel_credentials(config.tls)
    except ConfigurationError as wrong:
        return [error("TLS", str(wrong), ExitCode.CONFIGURATION)]
    return []


def _health(config: AgentConfig, seconds: float) -> list[Finding]:
    with open_sync_channel(config.aggregator, config.tls) as channel:
        asked = time.time()
        try:
            answer, call = health_pb2_grpc.HealthStub(channel).Check.with_call(
                health_pb2.HealthCheckRequest(), timeout=seconds
            )
        except grpc.RpcError as failed:
            known = error_from_rpc(failed)
            if isinstance(known, UnreachableError):
                words = f"{config.aggregator}: {_plain(str(known))}{way_to(config.aggregator)}"
                return [error(_ABOUT, words, ExitCode.UNREACHABLE)]
            return [fine(_ABOUT, f"{config.aggregator}: answers, but tells nothing of its health")]
        between = (asked + time.time()) / 2
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        verdict = warning(_ABOUT, f"{config.aggregator}: answers, but cannot serve now; an agent would wait for it")
    else:
        verdict = fine(_ABOUT, f"{config.aggregator}: answers and can serve")
    return [verdict, *_clock(dict(call.trailing_metadata() or ()), between)]


def _plain(text: str) -> str:
    """gRPC's words without the addresses and states of its own."""
    lowered = text.lower()
    for sign, words in _PLAIN.items():
        if sign in lowered:
            return words
    return text


def _clock(trailing: dict[str, str | bytes], here: float) -> list[Finding]:
    try:
        skew = float(trailing[CLOCK_KEY]) - here
    except (KeyError, ValueError):
        return []  # an aggregator of before, or something in between that lets it not through
    if abs(skew) <= _MOST_SKEW_SECONDS:
        return [fine("clock", f"{abs(skew):.0f} s from the aggregator's")]
    side = "behind" if skew > 0 else "before"
    return [warning("clock", f"{abs(skew):.0f} s {side} the aggregator's; set both by NTP: certificates depend on it")]


def _security(config: AgentConfig, seconds: float) -> list[Finding]:
    host, _, port = config.aggregator.removeprefix("dns:///").rpartition(":")
    if config.tls is None:
        if host in _LOOPBACK:
            return []
        return [warning("TLS", f"off: whoever sits between here and {host} can read and change everything")]
    findings = _own_certificate(config.tls)
    try:
        ends = server_certificate_end(config.tls, host.strip("[]"), int(port), seconds)
    except (OSError, ValueError):
        return findings  # no direct way, as through a proxy; the call above has told what there is to tell
    return [*findings, _end("the aggregator's certificate", ends, "its operator should renew it")]


def _own_certificate(tls: TlsConfig) -> list[Finding]:
    if tls.certificate is None or tls.key is None:
        return []
    try:
        return [_end("your certificate", own_certificate_end(tls.certificate, tls.key), "renew it")]
    except ssl.SSLError as failed:
        if "expired" not in str(failed):
            return []
        return [error("TLS", f"your certificate {tls.certificate} has expired; renew it", ExitCode.CONFIGURATION)]


def _end(whose: str, ends: datetime, do: str) -> Finding:
    days = (ends - datetime.now(UTC)).days
    text = f"{whose} is valid until {ends:%Y-%m-%d}, {days} days from now"
    return warning("TLS", f"{text}; {do}") if days < _SOON_DAYS else fine("TLS", text)
