"""Channels to the aggregator: keepalive, message limits, the way there, and TLS where its files are given.

And what the server at their other end is set to.
"""

from __future__ import annotations

import grpc
import grpc.aio

from fedafd.domain.addresses import split_address
from fedafd.domain.config import TlsConfig
from fedafd.domain.proxies import Proxy, proxy_for
from fedafd.rpc.tls import Trust, channel_credentials

__all__ = [
    "CHANNEL_OPTIONS",
    "KEEPALIVE_SECONDS",
    "MAX_MESSAGE_BYTES",
    "SERVER_OPTIONS",
    "keepalive_options",
    "open_channel",
    "open_sync_channel",
    "way_to",
]

MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's default; a chunk and its frame stay well below."""
KEEPALIVE_SECONDS = (30.0, 10.0)
"""After how long a silence a connection is pinged, and how long the answer may take before it is given up."""

Options = tuple[tuple[str, int | str], ...]


def keepalive_options(silent_seconds: float, answer_seconds: float) -> Options:
    """Of a channel or server that gives a line up after `silent_seconds` and `answer_seconds` without a byte."""
    answer_ms = int(1000 * answer_seconds)
    return (
        ("grpc.keepalive_time_ms", int(1000 * silent_seconds)),
        ("grpc.keepalive_timeout_ms", answer_ms),
        # The one that rules: gRPC waits for a ping's answer by this one, of 60 s, and for any byte by the other.
        ("grpc.http2.ping_timeout_ms", answer_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    )


CHANNEL_OPTIONS: Options = (
    *keepalive_options(*KEEPALIVE_SECONDS),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Each channel has a connection of its own: one that is opened anew may lead to another aggregator.
    ("grpc.use_local_subchannel_pool", 1),
)
SERVER_OPTIONS: Options = (
    *keepalive_options(*KEEPALIVE_SECONDS),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
    # Otherwise gRPC measures each line, and lets a site send many megabytes ahead of what has been read, which fill the
    # memory when many send at once. Without it a site sends about the next chunk while this one is worked on.
    ("grpc.http2.bdp_probe", 0),
    # When a round of hundreds begins on a busy machine, calls wait for longer than gRPC's 30 s until they are taken up;
    # it cancels them then, and their callers have to call again.
    ("grpc.server_max_unrequested_time_in_server", 120),
    # Until TLS and HTTP/2 have begun: as long as clients wait for that, in place of 120 s. Who opens connections and
    # sends nothing holds each one for so long.
    ("grpc.server_handshake_timeout_ms", 20_000),
)


def open_channel(address: str, tls: TlsConfig | Trust | None = None) -> grpc.aio.Channel:
    """An asyncio channel to `address`, host:port. Connects on first use. Raises ConfigurationError for TLS files."""
    options = _options(address, tls)
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=options)


def open_sync_channel(address: str, tls: TlsConfig | Trust | None = None) -> grpc.Channel:
    """A blocking channel to `address`, host:port. Never share it with a forked child. Raises as open_channel does."""
    options = _options(address, tls)
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, channel_credentials(tls), options=options)


def way_to(address: str) -> str:
    """What stands between this process and `address`, for the text of an error; empty if nothing does."""
    proxy = _proxy(address)
    if proxy is None:
        return ""
    if proxy.is_socks:
        return (
            f"; gRPC does not go through the proxy {proxy}: name one of HTTP with grpc_proxy if there is no other way"
        )
    return f"; the way there is through the proxy {proxy}: except the host with no_proxy if that is wrong"


def _options(address: str, tls: TlsConfig | Trust | None) -> Options:
    proxy = _proxy(address)
    # gRPC reads its variables itself, in small letters only, and for loopback too: so it is told.
    way: Options = (("grpc.enable_http_proxy", 0),)
    if proxy is not None and not proxy.is_socks:
        way = (("grpc.http_proxy", proxy.url),)
    named: Options = (("grpc.ssl_target_name_override", tls.server_name),) if tls and tls.server_name else ()
    return (*CHANNEL_OPTIONS, *way, *named)


def _proxy(address: str) -> Proxy | None:
    try:
        host, _ = split_address(address)
    except ValueError:  # a Unix socket, or a name of gRPC's own
        return None
    return proxy_for("grpc", host)
