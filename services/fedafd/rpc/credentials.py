"""Who calls: a bearer secret in the call's metadata, never a field of a message."""

from __future__ import annotations

from collections.abc import Iterable

from fedafd.domain.errors import UnauthenticatedError

__all__ = ["bearer_metadata", "bearer_secret", "find_bearer_secret"]

_KEY = "authorization"
_PREFIX = "Bearer "


def bearer_metadata(secret: str) -> tuple[tuple[str, str], ...]:
    """Metadata that carries `secret`, for a stub's call."""
    return ((_KEY, f"{_PREFIX}{secret}"),)


def bearer_secret(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The secret in a call's metadata. Raises UnauthenticatedError if there is none."""
    secret = find_bearer_secret(metadata)
    if secret is None:
        raise UnauthenticatedError("no credential; send the metadata `authorization: Bearer <credential>`")
    return secret


def find_bearer_secret(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The secret in a call's metadata, or None."""
    for key, value in metadata or ():
        if key == _KEY and isinstance(value, str) and value.startswith(_PREFIX):
            secret = value.removeprefix(_PREFIX).strip()
            if secret:
                return secret
    return None
