"""The file that an invited site, or region, begins with: parsed as its process parses it before anybody sees it."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from fedafd.domain.addresses import split_address
from fedafd.domain.config import parse_agent_config
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.errors import ConfigurationError, InvalidRequestError
from fedafd.domain.kinds import ClientKind

__all__ = ["ADAPTERS", "agent_yaml", "checked_address", "checked_path", "region_yaml"]

ADAPTERS: Mapping[ClientKind, str] = {
    ClientKind.IMAGE: "image-folder",
    ClientKind.TEXT: "parquet",
    ClientKind.PAIR: "parquet",
}
"""What reads most sites' data of a kind; docs/data.md lists the others."""


def checked_address(text: str) -> str:
    """host:port of an aggregator. Raises InvalidRequestError."""
    try:
        split_address(text)
    except (ValueError, ConfigurationError):
        raise InvalidRequestError(
            f"address of the aggregator {text[:80]!r}: give host:port, as the site reaches it"
        ) from None
    return text


def checked_path(text: str) -> str:
    """A folder of a site's machine; may be empty. Raises InvalidRequestError."""
    if len(text) > 500 or not (text or "x").isprintable():
        raise InvalidRequestError("folder of the data: give a path of the site's machine")
    return text


def agent_yaml(kind: ClientKind, aggregator: str, path: str) -> str:
    """The file's text."""
    values = {
        "aggregator": aggregator,
        "kind": kind.value,
        "data": {"adapter": ADAPTERS[kind], "path": path},
        "state_dir": "fedafd-agent",
    }
    parse_agent_config(values, "agent.yaml")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)


def region_yaml(name: str, aggregator: str) -> str:
    """The text of a region's file: its own federation has its name until somebody writes another."""
    values = {"aggregator": aggregator, "federation": name, "state_dir": "fedafd-region"}
    RegionConfig.model_validate(values)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
