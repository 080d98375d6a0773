"""Whether the line to the aggregator has TLS, and whom it is trusted by: nothing has to be said for it.

Off this machine it has TLS unless `plaintext: true` says otherwise. Without `tls` the aggregator is known by the
authority that the invitation's token names; its public key is kept in the state folder from then on. Where no token
named one, the public authorities are trusted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from fedafd.agent.files import write_atomically
from fedafd.domain.config import AgentConfig, TlsConfig
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.proxies import is_off_machine
from fedafd.domain.secrets import token_and_pin
from fedafd.rpc.authority import AGGREGATOR_NAME, anchor_of_pin
from fedafd.telemetry.logging import get_logger

__all__ = ["AUTHORITY_FILE", "with_line"]

AUTHORITY_FILE = "authority.pem"
_log = get_logger(__name__)
Config = TypeVar("Config", AgentConfig, RegionConfig)


def with_line(config: Config, state_dir: Path, token: str | None) -> Config:
    """`config` with the TLS that the line will have. Raises ConfigurationError for a damaged token.

    A token that is given names the authority of the moment: it takes the place of the kept one.
    """
    if config.tls is not None:
        return config
    off_machine = is_off_machine(config.aggregator)
    if config.plaintext or (config.plaintext is None and not off_machine):
        if off_machine:
            _warn(config.aggregator)
        return config
    path, pin = state_dir / AUTHORITY_FILE, token_and_pin(token or "")[1]
    if pin:
        write_atomically(path, anchor_of_pin(pin))
    tls = TlsConfig(authorities=path, server_name=AGGREGATOR_NAME) if path.exists() else TlsConfig()
    return config.model_copy(update={"tls": tls})


def _warn(aggregator: str) -> None:
    _log.warning(
        "agent.plaintext",
        aggregator=aggregator,
        reason="this site's models can be read and changed on the way; leave `plaintext` out",
    )
