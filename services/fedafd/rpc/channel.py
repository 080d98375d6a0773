"""Channels to the aggregator: keepalive, message limits, and TLS where its files are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from fedafd.domain.errors import ConfigurationError

__all__ = [
    "CHANNEL_OPTIONS",
    "MAX_MESSAGE_BYTES",
    "TlsFiles",
    "channel_credentials",
    "open_channel",
    "open_sync_channel",
]

MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's default; a chunk and its frame stay well below."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one side: the authorities it trusts and, for mutual TLS, its own certificate and key."""

    authorities: Path
    certificate: Path | None = None
    key: Path | None = None


def channel_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Client credentials from PEM files. Raises ConfigurationError naming the file that cannot be read."""
    return grpc.ssl_channel_credentials(_read(tls.authorities), _read(tls.key), _read(tls.certificate))


def open_channel(address: str, tls: TlsFiles | None = None) -> grpc.aio.Channel:
    """An asyncio channel to `address`, host:port. Connects on first use."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=CHANNEL_OPTIONS)


def open_sync_channel(address: str, tls: TlsFiles | None = None) -> grpc.Channel:
    """A blocking channel to `address`, host:port. Never share it with a forked child."""
    if tls is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(address, channel_credentials(tls), options=CHANNEL_OPTIONS)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"TLS file {path}: cannot be read: {error.strerror}") from error
