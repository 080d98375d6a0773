"""What stands in one table was made from the same data and settings: `run.json` says what a run was made from.

    configuration    all that a run's result depends on, but the data; as ExperimentConfig.described
    data             of the public set and of each group of clients: a fingerprint, and samples by split
    made_with        versions and device, one entry for each that worked on the run; they are told, not compared

Runs of an older version of FedAFD kept a hash of their configuration alone: they are taken if it fits, with a note that
nothing is known of their data.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.simulation.data import Prints
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.files import read_json, write_json

__all__ = ["changed_data", "changed_settings", "check_kept_runs", "kept_files", "note_run"]

_RECORD, _ASIDE = "run.json", "set-aside"
_MOST_NAMED, _LONGEST_VALUE = 3, 80
_NOT_THERE = "not there"
_LIBRARIES = ("fedafd", "torch", "numpy", "transformers", "pillow")


def check_kept_runs(
    experiment: ExperimentConfig, output: Path, prints: Prints | None, *, restart: bool = False
) -> list[str]:
    """Refuse runs in `output` that are not of this experiment and these data, or with `restart` set them aside.

    `prints` of the data as they are now; None compares the runs with each other. Runs that the experiment does not have
    are looked at for their data alone. Returns notes for people. Raises ConfigurationError naming the runs and what
    differs in them; DataError for a broken run.json.
    """
    unlike: dict[str, list[RunKey]] = {}
    unknown: list[RunKey] = []
    for key, record in _kept(output):
        described = experiment.described(key) if key in experiment.runs() else None
        difference = _unlike(experiment, key, record, described, prints)
        if difference:
            unlike.setdefault(difference, []).append(key)
        elif "data" not in record:
            unknown.append(key)
        elif prints is None:
            prints = record["data"]
    notes = []
    if unlike and not restart:
        raise ConfigurationError(_refusal(output, unlike))
    if unlike:
        moved = [key for keys in unlike.values() for key in keys]
        notes.append(f"{_named(moved)} set aside in {_set_aside(output, moved)}")
    if unknown:
        notes.append(
            f"{_named(unknown)}: made by an older version, which kept nothing of the data: make sure that they were the"
            " same, or choose another --output"
        )
    return notes


def note_run(folder: Path, experiment: ExperimentConfig, key: RunKey, prints: Prints, device: str) -> None:
    """Write what the run in `folder` is made from, when it starts or goes on.

    Raises ConfigurationError if it was begun from something else.
    """
    made_with: list[dict[str, str]] = []
    described = experiment.described(key)
    if (folder / _RECORD).exists():
        record = read_json(folder / _RECORD)
        if difference := _unlike(experiment, key, record, described, prints):
            raise ConfigurationError(
                f"{folder}: holds a run of another configuration or of other data ({difference}); choose another"
                " --output"
            )
        made_with = record.get("made_with", [])
    if (now := _versions(device)) not in made_with:
        made_with = [*made_with, now]
    content = {**key.model_dump(), "configuration": described, "data": dict(prints), "made_with": made_with}
    write_json(folder / _RECORD, content)


def kept_files(output: Path, name: str) -> Iterator[tuple[RunKey, Path]]:
    """The file of that name of each run below an experiment's `output`. A folder that somebody made beside them, as
    `seed-0.bak`, is passed over."""
    for path in sorted(output.glob(f"runs/*/*/seed-*/{name}")):
        scenario, strategy, seed = path.parts[-4:-1]
        number = seed.removeprefix("seed-")
        if number.isdecimal():
            key = RunKey(scenario=scenario, strategy=strategy, seed=int(number))
            if output / key.folder == path.parent:
                yield key, path


def changed_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The settings that differ between two `configuration`s of run.json, by their path, with both values."""
    then, now = _flat(_as_read_today(one)), _flat(_as_read_today(other))
    return {
        path: (then.get(path, _NOT_THERE), now.get(path, _NOT_THERE))
        for path in {**now, **then}
        if then.get(path) != now.get(path)
    }


def changed_data(one: Prints, other: Prints) -> dict[str, tuple[str, str]]:
    """The public set and groups of clients whose data differ, each with what both are."""
    return {
        name: (_samples(one.get(name)), _samples(other.get(name)))
        for name in {**one, **other}
        if one.get(name, {}).get("fingerprint") != other.get(name, {}).get("fingerprint")
    }


def _kept(output: Path) -> Iterator[tuple[RunKey, dict[str, Any]]]:
    for key, path in kept_files(output, _RECORD):
        yield key, read_json(path)


def _unlike(
    experiment: ExperimentConfig,
    key: RunKey,
    record: Mapping[str, Any],
    described: Mapping[str, Any] | None,
    prints: Prints | None,
) -> str:
    """In what a kept run differs; empty if in nothing that is known."""
    changes = []
    if "configuration" in record and described is not None:
        changed = changed_settings(record["configuration"], described)
        changes += [f"{path}: {then} then, {now} now" for path, (then, now) in changed.items()]
    elif described is not None and record.get("fingerprint") != experiment.fingerprint(key):
        changes.append("its configuration (an older version kept no more of it than a hash)")
    if "data" in record and prints is not None:
        unlike = changed_data(record["data"], prints)
        changes += [f"data of {name}: {then} then, {now} now" for name, (then, now) in unlike.items()]
    more = len(changes) - _MOST_NAMED
    return ", ".join(changes[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _as_read_today(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults of settings that did not exist yet; weights had no cap before there was a setting of it."""
    try:
        values = configuration["federation"]
        distillation = {"weight_cap": None} | values.get("distillation", {})
        federation = FederationConfig.model_validate({**values, "distillation": distillation})
    except (KeyError, ValidationError):
        return dict(configuration)
    return {**configuration, "federation": json.loads(federation.canonical_json())}


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Values by their path, as JSON."""
    if isinstance(value, Mapping) and value:
        parts: Iterator[tuple[str, Any]] = ((f"{path}.{name}".lstrip("."), item) for name, item in value.items())
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        parts = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    else:
        text = json.dumps(value, sort_keys=True)
        return {path: text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."}
    return {name: text for item_path, item in parts for name, text in _flat(item, item_path).items()}


def _samples(print_of_data: Mapping[str, Any] | None) -> str:
    if print_of_data is None:
        return _NOT_THERE
    counts = "/".join(str(count) for count in print_of_data["samples"].values())
    return f"{counts} samples with fingerprint {print_of_data['fingerprint'][:8]}"


def _refusal(output: Path, unlike: Mapping[str, Sequence[RunKey]]) -> str:
    words = "; ".join(f"{_named(keys)} ({what})" for what, keys in list(unlike.items())[:_MOST_NAMED])
    more = len(unlike) - _MOST_NAMED
    return (
        f"--output {output}: holds runs of other settings or other data, which must not stand in one table with these:"
        f" {words}{f' and {more} more kinds' if more > 0 else ''}; choose another --output, or add --restart to set"
        " those runs aside and do them anew"
    )


def _named(keys: Sequence[RunKey]) -> str:
    more = len(keys) - _MOST_NAMED
    return ", ".join(key.name for key in keys[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _set_aside(output: Path, keys: Sequence[RunKey]) -> Path:
    """Move runs out of the way; nothing is deleted."""
    aside = output / _ASIDE / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    for key in keys:
        target = aside / key.folder
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(output / key.folder, target)
    return aside


def _versions(device: str) -> dict[str, str]:
    import torch

    from fedafd.learning.optimizers import choose_device

    chosen = choose_device(device)
    device_name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type
    return {
        **{name: version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "device": f"{device_name} ({platform.machine()})",
        "threads": str(torch.get_num_threads()),
    }
