"""Who is at the other end of a call, as gRPC tells it."""

from __future__ import annotations

from urllib.parse import unquote

__all__ = ["address_of"]


def address_of(peer: str) -> str | None:
    """The IP address in `ipv4:10.0.0.7:5123` or `ipv6:%5B::1%5D:5123`; None for a socket that has none."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return rest.rpartition(":")[0].strip("[]") or None
