"""Whether an aggregator on this machine speaks TLS, by its settings."""

from __future__ import annotations

from collections.abc import Mapping

from fedafd.domain.proxies import is_off_machine

__all__ = ["aggregator_has_tls"]

_PREFIX = "FEDAFD_AGGREGATOR_"


def aggregator_has_tls(settings: Mapping[str, str], listen: str) -> bool:
    """With a certificate, else as it is told, else off loopback. `listen`: its address if no setting says it."""
    if f"{_PREFIX}TLS_CERTIFICATE" in settings:
        return True
    plain = settings.get(f"{_PREFIX}PLAINTEXT")
    if plain is not None:
        return plain.lower() not in ("true", "1", "yes", "on")
    return is_off_machine(settings.get(f"{_PREFIX}LISTEN", listen))
