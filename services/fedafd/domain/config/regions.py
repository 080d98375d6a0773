"""What a federation's configuration must not ask for, if regions take part: anything that needs a client's own rows."""

from __future__ import annotations

from fedafd.domain.config.federation import FederationConfig
from fedafd.domain.config.modes import AveragingMode
from fedafd.domain.errors import ConfigurationError

__all__ = ["check_regions"]


def check_regions(config: FederationConfig) -> None:
    """Raise ConfigurationError if merged SED states do not suffice for the configuration."""
    if config.averaging is not AveragingMode.OFF:
        raise ConfigurationError(
            f"federation {config.name}: strategy {config.strategy} averages the weights of single clients"
            f" (averaging: {config.averaging.value}), and a region sends its clients' merged SED states alone; let the"
            " sites take part themselves, or choose a strategy that distils"
        )
    if config.distillation.staleness_decay is not None:
        raise ConfigurationError(
            f"federation {config.name}: distillation.staleness_decay weighs what single clients sent in earlier rounds"
            " anew, and a region's merged states hold no client's rows; set it to null, or let the sites take part"
            " themselves"
        )
