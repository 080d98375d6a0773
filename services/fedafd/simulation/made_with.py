"""Whether the runs of a table were made alike: versions, devices and threads, in words, and whether it matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedafd.domain.counted import counted
from fedafd.simulation.experiment import RunKey
from fedafd.simulation.files import read_json

__all__ = ["made_with_note"]

_RECORD = "run.json"
_ROUNDING = ("device", "threads")
"""Where only these differ, the same code added the same numbers, in another order."""
RunEnvironment = tuple[tuple[str, str], ...]


def made_with_note(output: Path, keys: Sequence[RunKey]) -> str | None:
    """A few sentences where runs were not made alike; None where they were, or nothing is known of them."""
    recorded = dict(_recorded(output, keys))
    names = dict.fromkeys(name for makings in recorded.values() for making in makings for name, _ in making)
    unlike = {name: counts for name in names if len(counts := _counts(recorded, name)) > 1}
    if not unlike:
        return None
    words = "; ".join(f"{name}: {_listed(counts)}" for name, counts in unlike.items())
    return f"The runs were not all made alike ({words}). {_what_it_means(list(unlike))} {_pairs(recorded)}"


def _recorded(output: Path, keys: Sequence[RunKey]) -> Iterator[tuple[RunKey, tuple[RunEnvironment, ...]]]:
    """What each run was made with; several where it was stopped and went on elsewhere."""
    for key in keys:
        path = output / key.folder / _RECORD
        makings = read_json(path).get("made_with", []) if path.exists() else []
        if makings:
            yield key, tuple(tuple(sorted(making.items())) for making in makings)


def _counts(recorded: Mapping[RunKey, Sequence[RunEnvironment]], name: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for makings in recorded.values():
        for value in dict.fromkeys(dict(making).get(name, "not known") for making in makings):
            counts[value] = counts.get(value, 0) + 1
    return counts


def _listed(counts: Mapping[str, int]) -> str:
    parts = [f"{value} in {counted(number, 'run')}" for value, number in counts.items()]
    return ", ".join(parts)


def _what_it_means(names: Sequence[str]) -> str:
    if all(name in _ROUNDING for name in names):
        what = " and ".join(names)
        return (
            f"Other {what} change the order in which numbers are added, so the rounding of a run, and neither its"
            " method nor its random choices."
        )
    versions = ", ".join(name for name in names if name not in _ROUNDING)
    return (
        f"Another version ({versions}) may compute otherwise in more than rounding: where a difference is close, do all"
        " runs with one version, in another --output."
    )


def _pairs(recorded: Mapping[RunKey, Sequence[RunEnvironment]]) -> str:
    """Differences are paired by scenario and seed: they are touched where the runs of a pair are unlike."""
    groups: dict[tuple[str, int], set[tuple[RunEnvironment, ...]]] = {}
    for key, makings in recorded.items():
        groups.setdefault((key.scenario, key.seed), set()).add(tuple(sorted(makings)))
    unlike = [f"{scenario} seed {seed}" for (scenario, seed), makings in groups.items() if len(makings) > 1]
    if not unlike:
        return "All strategies of a seed were made alike, so that their differences do not come from it."
    more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
    return (
        f"It lies between strategies that are compared in {', '.join(unlike[:3])}{more}: a difference there may come"
        " from it in part."
    )
