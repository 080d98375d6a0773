"""Channels to the aggregator: keepalive, message limits, and TLS where its files are given."""

from __future__ import annotations

import grpc
import grpc.aio

from fedafd.domain.config import TlsConfig
from fedafd.rpc.tls import channel_credentials

__all__ = ["CHANNEL_OPTIONS", "MAX_MESSAGE_BYTES", "open_channel", "open_sync_channel"]

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


def open_channel(address: str, tls: TlsConfig | None = None) -> grpc.aio.Channel:
    """An asyncio channel to `address`, host:port. Connects on first use. Raises ConfigurationError for TLS files."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=_options(tls))


def open_sync_channel(address: str, tls: TlsConfig | None = None) -> grpc.Channel:
    """A blocking channel to `address`, host:port. Never share it with a forked child. Raises as open_channel does."""
    if tls is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(address, channel_credentials(tls), options=_options(tls))


def _options(tls: TlsConfig) -> tuple[tuple[str, int | str], ...]:
    return (*CHANNEL_OPTIONS, *((("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()))
