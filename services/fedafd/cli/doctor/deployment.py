"""Which processes are set up here, by their variables, and whether those fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedafd.cli.doctor.findings import Finding, bad, fine
from fedafd.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from fedafd.aggregator.settings import AggregatorSettings
    from fedafd.control_plane.settings import ControlPlaneSettings
    from fedafd.distiller.queries.settings import QueriesSettings
    from fedafd.distiller.settings import DistillerSettings

__all__ = ["PREFIXES", "Deployment", "is_set_up", "look_at_settings"]

PREFIXES: Mapping[str, str] = {
    "control-plane": "FEDAFD_CONTROL_PLANE_",
    "aggregator": "FEDAFD_AGGREGATOR_",
    "distiller": "FEDAFD_DISTILLER_",
    "queries": "FEDAFD_QUERIES_",
}
_SETTINGS: Mapping[str, str] = {
    "control-plane": "fedafd.control_plane.settings",
    "aggregator": "fedafd.aggregator.settings",
    "distiller": "fedafd.distiller.settings",
    "queries": "fedafd.distiller.queries.settings",
}
"""Modules with a `load_settings`."""
_SHARED = ("database_url", "redis_url", "internal_token", "store.url", "store.endpoint")


@dataclass(kw_only=True)
class Deployment:
    """The settings of the processes that are set up here; None for one that is not, or whose settings are wrong."""

    control_plane: ControlPlaneSettings | None = None
    aggregator: AggregatorSettings | None = None
    distiller: DistillerSettings | None = None
    queries: QueriesSettings | None = None

    def loaded(self) -> Iterator[tuple[str, Any]]:
        """Each process whose settings are right."""
        settings = (self.control_plane, self.aggregator, self.distiller, self.queries)
        pairs = zip(PREFIXES, settings, strict=True)
        return ((name, settings) for name, settings in pairs if settings is not None)

    def first(self, name: str) -> Any:
        """A setting of the first process that has it; None where none has."""
        return next((value for _, settings in self.loaded() if (value := _value(settings, name)) is not None), None)


def is_set_up(process: str, environment: Mapping[str, str]) -> bool:
    """Whether a variable of the process is set."""
    return any(name.startswith(PREFIXES[process]) for name in environment)


def look_at_settings(environment: Mapping[str, str]) -> tuple[Deployment, list[Finding]]:
    """The settings of each process that has variables in `environment`, which is this process's own."""
    deployment, findings = Deployment(), []
    for name in PREFIXES:
        if not is_set_up(name, environment):
            continue
        try:
            # Only those of processes that are set up: the image of one has not what another needs.
            setattr(deployment, name.replace("-", "_"), import_module(_SETTINGS[name]).load_settings())
        except ConfigurationError as error:
            findings.append(bad("settings", f"{name}: {error}", "correct the variables; docs/settings.md lists them"))
        else:
            findings.append(fine("settings", f"{name}: complete"))
    if not findings:
        names = ", ".join(f"{prefix}*" for prefix in PREFIXES.values())
        remedy = "run it where a process runs, with its variables; for `fedafd up` give --folder"
        findings.append(bad("settings", f"none of {names} is set: no process is set up here", remedy))
    findings += _differing(deployment)
    return deployment, findings


def _differing(deployment: Deployment) -> Iterator[Finding]:
    """What processes share and each was given another of."""
    for name in _SHARED:
        given = {process: _value(settings, name) for process, settings in deployment.loaded()}
        given = {process: value for process, value in given.items() if value is not None}
        if len(set(given.values())) > 1:
            variable = name.replace(".", "__").upper()
            words = f"{' and '.join(given)} are given different values of {variable}"
            yield bad("settings", words, "give them the same: they meet there")


def _value(settings: object, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part, None)
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value
