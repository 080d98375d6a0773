"""Settings of an experiment that can have no effect: told before the runs, so that nobody reads a result into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from fedafd.domain.config import AlignmentMode, EnsembleMode, FederationConfig, FusionMode
from fedafd.domain.kinds import ClientKind
from fedafd.simulation.experiment import ExperimentConfig, RunKey

__all__ = ["settings_without_effect"]

_ADVERSARIAL = (AlignmentMode.ADVERSARIAL, AlignmentMode.ADVERSARIAL_PAIRING)
_PAIRING = (AlignmentMode.ADVERSARIAL_PAIRING, AlignmentMode.PAIRING)
_FUSED = (FusionMode.VECTOR, FusionMode.TOKENS)
_SERVICES_ONLY = (
    "quorum",
    "round_deadline_seconds",
    "idle_timeout_seconds",
    "accept_personalized_models",
    "max_upload_bytes",
)


def _in_steps(kind: ClientKind, config: FederationConfig) -> bool:
    return config.client.for_kind(kind).schedule == "steps"


_USES: tuple[tuple[str, Callable[[FederationConfig], bool], str], ...] = (
    ("alignment.schedule", lambda c: c.alignment.mode is not AlignmentMode.OFF, "alignment.mode is off"),
    ("alignment.weight", lambda c: c.alignment.mode in _ADVERSARIAL, "alignment.mode is not adversarial"),
    ("alignment.max_gradient_share", lambda c: c.alignment.mode in _ADVERSARIAL, "alignment.mode is not adversarial"),
    (
        "alignment.discriminator_learning_rate",
        lambda c: c.alignment.mode in _ADVERSARIAL,
        "alignment.mode is not adversarial",
    ),
    ("alignment.pairing_", lambda c: c.alignment.mode in _PAIRING, "alignment.mode does not pair"),
    (
        "alignment.contrastive_",
        lambda c: c.alignment.mode is AlignmentMode.CONTRASTIVE,
        "alignment.mode is not contrastive",
    ),
    ("alignment.digest_", lambda c: c.alignment.mode is AlignmentMode.DIGEST, "alignment.mode is not digest"),
    (
        "client.public_samples_per_epoch",
        lambda c: c.alignment.mode is not AlignmentMode.OFF,
        "alignment.mode is off",
    ),
    *(
        (f"fusion.{name}", lambda c: c.fusion.mode in _FUSED, "fusion.mode is off or global")
        for name in (
            "reduction",
            "inner_norm",
            "zero_init",
            "calibrate_gate",
            "alone_branch",
            "persistent",
            "warm_start_steps",
        )
    ),
    (
        "distillation.temperature",
        lambda c: c.distillation.enabled and c.distillation.ensemble is not EnsembleMode.MEAN,
        "no ensemble by similarity is distilled",
    ),
    *(
        (f"distillation.{name}", lambda c: c.distillation.enabled, "distillation.enabled is false")
        for name in ("ensemble", "precision", "self_share", "weight", "start_round", "centre", "normalise_aggregate")
    ),
    (
        "distillation.weight_cap",
        lambda c: c.distillation.enabled and c.distillation.ensemble is not EnsembleMode.MEAN,
        "no ensemble by similarity is distilled",
    ),
    *(
        (
            f"distillation.{name}",
            lambda c: c.distillation.caps_weights,
            "distillation.weight_cap is null, or no ensemble by similarity is distilled",
        )
        for name in ("leave_out_copies", "trimmed_share")
    ),
    (
        "distillation.max_staleness",
        lambda c: c.distillation.enabled and c.distillation.staleness_decay is not None,
        "distillation.staleness_decay is null",
    ),
    (
        "server.schedule_rounds",
        lambda c: (
            c.server.schedule == "cosine"
            or any(_in_steps(kind, c) and c.client.for_kind(kind).schedule_rounds is None for kind in ClientKind)
        ),
        "no schedule counts rounds with it",
    ),
    *(
        (
            f"client.{kind.value}.schedule_rounds",
            partial(_in_steps, kind),
            f"client.{kind.value}.schedule is constant",
        )
        for kind in ClientKind
    ),
)


def settings_without_effect(experiment: ExperimentConfig) -> list[str]:
    """A sentence for each. What a preset or a default sets is not looked at, but for what ends a method silently."""
    key = experiment.runs()[0]
    configs = {
        name: experiment.federation_config(RunKey(scenario=key.scenario, strategy=name, seed=key.seed))
        for name in experiment.strategies
    }
    return [
        *_rounds(experiment, configs),
        *_participation(experiment, configs),
        *_partition(experiment),
        *_encoders(experiment),
        *_values(experiment, configs),
        *_twins(configs),
    ]


def _rounds(experiment: ExperimentConfig, configs: Mapping[str, FederationConfig]) -> Iterator[str]:
    late: dict[int, list[str]] = {}
    for name, config in configs.items():
        if config.distillation.enabled and config.distillation.start_round > experiment.rounds:
            late.setdefault(config.distillation.start_round, []).append(name)
    are, rounds = ("is", "round") if experiment.rounds == 1 else ("are", "rounds")
    for start, names in late.items():
        yield (
            f"{', '.join(names)}: distillation.start_round is {start}, but there {are} {experiment.rounds}"
            f" {rounds}:"
            " nothing is distilled, and the server learns from the public set alone"
        )


def _participation(experiment: ExperimentConfig, configs: Mapping[str, FederationConfig]) -> Iterator[str]:
    if experiment.participation < 1 and experiment.rounds == 1:
        yield f"participation {experiment.participation:g}: all take part in round 1, and there is no other"
    drawn = [name for name, config in configs.items() if config.cohort.is_drawn]
    if drawn:
        yield f"{', '.join(drawn)}: cohort: a simulation asks every client; participation leaves some out by chance"
    stale = [name for name, config in configs.items() if config.distillation.staleness_decay is not None]
    if stale and (experiment.participation == 1 or experiment.rounds == 1):
        yield f"{', '.join(stale)}: distillation.staleness_decay: every client delivers in every round"


def _partition(experiment: ExperimentConfig) -> Iterator[str]:
    labelled = [group for group in experiment.clients if group.kind is not ClientKind.PAIR]
    split = [group for group in labelled if (group.parts or group.count) > 1]
    for name, scenario in experiment.scenarios.items():
        if scenario.scheme == "iid" and "alpha" in scenario.model_fields_set:
            yield f"scenario {name}: alpha: scheme iid has none"
        if scenario.scheme == "dirichlet" and not split:
            why = (
                "every group of clients with labels is one client that holds all"
                if labelled
                else "pairs have no labels"
            )
            yield f"scenario {name}: scheme dirichlet: {why}; it is as scheme iid"


def _encoders(experiment: ExperimentConfig) -> Iterator[str]:
    for index, group in enumerate(experiment.clients):
        for modality, encoder in (("image", group.image_encoder), ("text", group.text_encoder)):
            if encoder is not None and modality not in [allowed.value for allowed in group.kind.modalities]:
                yield f"clients[{index}]: {modality}_encoder: a client of kind {group.kind.value} has none"


def _values(experiment: ExperimentConfig, configs: Mapping[str, FederationConfig]) -> Iterator[str]:
    """What is set for all strategies counts if one of them uses it; what a strategy sets, if that one does."""
    kinds = {group.kind for group in experiment.clients}
    sections = [("federation", experiment.federation, list(configs.values()))]
    sections += [(f"strategies.{name}", values, [configs[name]]) for name, values in experiment.strategies.items()]
    for where, values, users in sections:
        for path in _paths(values):
            if path.split(".")[0] in _SERVICES_ONLY:
                yield f"{where}.{path}: a simulation has no use for it"
            for kind in set(ClientKind) - kinds:
                if path.startswith(f"client.{kind.value}."):
                    yield f"{where}.{path}: there is no {kind.value} client"
            for prefix, is_used, why in _USES:
                if (path == prefix or (prefix.endswith("_") and path.startswith(prefix))) and not any(
                    is_used(config) for config in users
                ):
                    yield f"{where}.{path}: {why}"
                    break


def _paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _twins(configs: Mapping[str, FederationConfig]) -> Iterator[str]:
    """Strategies whose names alone differ."""
    seen: dict[str, str] = {}
    for name, config in configs.items():
        described = config.model_copy(update={"strategy": "", "preset": "default"}).canonical_json()
        if (other := seen.setdefault(described, name)) != name:
            yield f"{name}: its settings are those of {other}: the figures are the same"
