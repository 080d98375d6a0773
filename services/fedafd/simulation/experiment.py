"""`experiment.yaml`: what `fedafd simulate` compares. Strategies x scenarios x seeds, each one run.

Unknown keys and bad values raise ConfigurationError with the key's path and what is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedafd.domain.config import (
    DpConfig,
    EncoderConfig,
    FederationConfig,
    TaskConfig,
    parse_config,
    parse_federation_config,
)
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind
from fedafd.domain.presets import merged
from fedafd.domain.seeds import derive_seed
from fedafd.domain.strategies import strategy_names
from fedafd.domain.yaml_files import read_yaml
from fedafd.simulation.presets import EXPERIMENTS
from fedafd.tracking.trackers import check_trackers

__all__ = ["SERVER_SETTINGS", "ClientGroup", "ExperimentConfig", "RunKey", "Scenario", "Source", "read_experiment"]

SERVER_SETTINGS = ("weight_cap", "leave_out_copies", "trimmed_share")
"""Of the block `distillation`: no site is told of them, but results depend on them."""
_ALONE = "local"
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(_Config):
    """Where samples come from: an adapter, its path (relative to --data, or to the file) and its options."""

    adapter: str
    path: Path | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class ClientGroup(Source):
    """Clients of one kind that share a data set between them."""

    kind: ClientKind
    count: int = Field(1, ge=1, le=10_000, description="Clients in the group.")
    parts: int | None = Field(None, ge=1, description="Parts the training split is cut into; null: count.")
    image_encoder: EncoderConfig | None = None
    text_encoder: EncoderConfig | None = None
    task: TaskConfig | None = Field(
        None, description="What is learned of the labels; null: classification, or retrieval for pairs."
    )

    dp: DpConfig | None = Field(
        None, description="Differential privacy of each client's training, as `privacy.dp` in agent.yaml; null: none."
    )

    @model_validator(mode="after")
    def _parts_suffice(self) -> ClientGroup:
        if self.parts is not None and self.parts < self.count:
            raise ValueError(f"parts is {self.parts}, fewer than the {self.count} clients")
        return self

    def described(self, exclude: set[str]) -> dict[str, Any]:
        """As JSON values; what is as it was before there was a key for it is not named."""
        return self.model_dump(
            mode="json", exclude=exclude | {name for name in ("task", "dp") if getattr(self, name) is None}
        )


class Scenario(_Config):
    """How the training data are spread over a group's clients. Pairs have no labels: they are always spread evenly."""

    scheme: Literal["iid", "dirichlet"] = "iid"
    alpha: float = Field(0.1, gt=0)


class RunKey(_Config):
    """One run of an experiment."""

    scenario: str
    strategy: str
    seed: int

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.scenario} / {self.strategy} / seed {self.seed}"

    @property
    def folder(self) -> str:
        """Where its files lie below the experiment's output."""
        return f"runs/{self.scenario}/{self.strategy}/seed-{self.seed}"


class ExperimentConfig(_Config):
    """An experiment. `strategies` maps a name to values of federation.yaml on top of the strategy of that name."""

    name: Name = "experiment"
    preset: Literal["small", "pretrained", "paper"] | None = None
    rounds: int = Field(8, ge=1, le=10_000)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((0,), min_length=1)
    participation: float = Field(
        1.0, gt=0, le=1, description="Chance of a client to deliver in a round, from the second on; drawn by the seed."
    )
    federation: dict[str, Any] = Field(default_factory=dict, description="Values of federation.yaml for all runs.")
    public: Source
    clients: tuple[ClientGroup, ...] = Field(min_length=1)
    scenarios: dict[Name, Scenario] = Field({"iid": Scenario()}, min_length=1)
    strategies: dict[Name, dict[str, Any]] = Field({"fedafd": {}, "local": {}}, min_length=1)
    baseline: str = Field("fedafd", description="What the others are compared with; fedafd, else the first strategy.")
    tracking: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Trackers that get each round's metrics, by name, with their options."
    )

    @model_validator(mode="before")
    @classmethod
    def _on_its_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = values.get("preset")
        if preset is not None and preset not in EXPERIMENTS:
            raise ValueError(f"preset: {preset!r} is none of {', '.join(EXPERIMENTS)}")
        base = EXPERIMENTS.get(str(preset), {})
        given = dict(values)
        # A list of names is short for names without further values; what the file names replaces the preset's.
        if isinstance(given.get("strategies"), list):
            given["strategies"] = {str(name): {} for name in given["strategies"]}
        replaced = {key: given[key] for key in ("strategies", "scenarios", "clients", "public") if key in given}
        whole = merged(base, given) | replaced
        names = whole.get("strategies")
        if isinstance(names, Mapping) and names:
            whole.setdefault("baseline", "fedafd" if "fedafd" in names else next(iter(names)))
        return whole

    @model_validator(mode="after")
    def _runs_make_sense(self) -> ExperimentConfig:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: each may stand there once")
        try:
            check_trackers(self.tracking, "tracking")
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        if self.baseline not in self.strategies:
            raise ValueError(f"baseline: {self.baseline!r} is none of the strategies {', '.join(self.strategies)}")
        return self

    def runs(self) -> list[RunKey]:
        """All runs, in the order in which they are done: all of one seed's strategies side by side."""
        return [
            RunKey(scenario=scenario, strategy=strategy, seed=seed)
            for seed in self.seeds
            for scenario in self.scenarios
            for strategy in self.strategies
        ]

    def federation_config(self, key: RunKey) -> FederationConfig:
        """The federation's configuration of one run. Raises ConfigurationError."""
        own = self.strategies[key.strategy]
        named = {"strategy": key.strategy} if key.strategy in strategy_names() else {}
        values = merged(merged({"name": self.name, "seed": key.seed} | named, self.federation), own)
        return parse_federation_config(values, f"experiment, strategy {key.strategy}")

    def alone(self) -> str | None:
        """The strategy under which the baseline's clients train alone, whatever its name is.

        Of several it is the one that differs from the baseline in nothing else. None where there is none, or where the
        baseline is one.
        """
        others = {name: {"strategy": name} | values for name, values in self.strategies.items()}
        alone = [name for name, values in others.items() if values["strategy"] == _ALONE]
        if self.baseline in alone:
            return None
        own = others[self.baseline] | {"strategy": _ALONE}
        same = (name for name in alone if others[name] == own)
        return next(same, _ALONE if _ALONE in alone else next(iter(alone), None))

    def absent(self, key: RunKey, number: int, names: Sequence[str]) -> list[str]:
        """Who delivers nothing in a round: the same clients under every strategy; at least one delivers."""
        if number == 1 or self.participation == 1:
            return []
        rng = np.random.default_rng(derive_seed(key.seed, key.scenario, number, "absent"))
        missing = [name for name in sorted(names) if rng.random() >= self.participation]
        return missing if len(missing) < len(names) else missing[1:]

    def described(self, key: RunKey) -> dict[str, Any]:
        """Everything that a run's result depends on, but the data: where they lie does not count."""
        described = self._described(key, exclude={"path"})
        distillation = self.federation_config(key).distillation
        described["federation"]["distillation"] |= {name: getattr(distillation, name) for name in SERVER_SETTINGS}
        return described

    def fingerprint(self, key: RunKey) -> str:
        """What older versions kept of a configuration: a hash, of the data's places too."""
        described = self._described(key, exclude=set())
        return sha256_of(json.dumps(described, sort_keys=True).encode())

    def _described(self, key: RunKey, exclude: set[str]) -> dict[str, Any]:
        return {
            "federation": json.loads(self.federation_config(key).sites_json()),
            "rounds": self.rounds,
            **({"participation": self.participation} if self.participation < 1 else {}),
            "public": self.public.model_dump(mode="json", exclude=exclude),
            "clients": [group.described(exclude) for group in self.clients],
            "scenario": self.scenarios[key.scenario].model_dump(mode="json"),
            "seed": key.seed,
        }


def read_experiment(
    path: Path | None, overrides: Mapping[str, Any], data: Path | None, *, weights: Mapping[str, str] | None = None
) -> ExperimentConfig:
    """Read experiment.yaml with `overrides` on top, and make its paths absolute. Raises ConfigurationError.

    `weights`: hub id or folder of pretrained weights by the encoder's key, such as `image_encoder`.
    """
    values: Any = {}
    if path is not None:
        values = read_yaml(path)
    if isinstance(values, Mapping):
        values = {**values, **overrides}
        if weights:
            named = {key: {"pretrained": source} for key, source in weights.items()}
            values["federation"] = merged(values.get("federation") or {}, named)
    config = parse_config(ExperimentConfig, values, str(path) if path is not None else "experiment")
    for key in config.runs():
        config.federation_config(key)
    root = data if data is not None else path.parent if path is not None else Path.cwd()
    return config.model_copy(
        update={
            "public": _placed(config.public, root),
            "clients": tuple(_placed(group, root) for group in config.clients),
        }
    )


def _placed(source: Any, root: Path) -> Any:
    return source if source.path is None else source.model_copy(update={"path": (root / source.path).absolute()})
