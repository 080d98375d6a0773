"""Whether an aggregator on this machine speaks TLS, by its settings."""

from __future__ import annotations

from collections.abc import Mapping

from fedafd.domain.proxies import is_off_machine

__all__ = ["aggregator_has_tls"]

_PREFIX = "FEDAFD_AGGREGATOR_"


def aggregator_has_tls(settings: Mapping[str, str], listen: str) -> bool:
    """With a certificate, or off loopback unless it is to be plain. `listen`: its address if no setting says it."""
    plain = settings.get(f"{_PREFIX}PLAINTEXT", "").lower() in ("true", "1", "yes", "on")
    off_machine = is_off_machine(settings.get(f"{_PREFIX}LISTEN", listen))
    return f"{_PREFIX}TLS_CERTIFICATE" in settings or (off_machine and not plain)
