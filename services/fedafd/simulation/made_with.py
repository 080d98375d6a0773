"""Whether the runs of a table were made alike: versions, devices and threads, in words, and whether it matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedafd.simulation.experiment import RunKey
from fedafd.simulation.files import read_json

__all__ = ["made_with_note"]

_RECORD = "run.json"
_ROUNDING = ("device", "threads")
"""Where only these differ, the same code added the same numbers, in another order."""
Made = tuple[tuple[str, str], ...]


def made_with_note(output: Path, keys: Sequence[RunKey]) -> str | None:
    """A few sentences where runs were not made alike; None where they were, or nothing is known of them."""
    held = dict(_recorded(output, keys))
    names = dict.fromkeys(name for made in held.values() for each in made for name, _ in each)
    unlike = {name: counts for name in names if len(counts := _counts(held, name)) > 1}
    if not unlike:
        return None
    told = "; ".join(f"{name}: {_listed(counts)}" for name, counts in unlike.items())
    return f"The runs were not all made alike ({told}). {_what_it_means(list(unlike))} {_pairs(held)}"


def _recorded(output: Path, keys: Sequence[RunKey]) -> Iterator[tuple[RunKey, tuple[Made, ...]]]:
    """What each run was made with; several where it was stopped and went on elsewhere."""
    for key in keys:
        path = output / key.folder / _RECORD
        made = read_json(path).get("made_with", []) if path.exists() else []
        if made:
            yield key, tuple(tuple(sorted(each.items())) for each in made)


def _counts(held: Mapping[RunKey, Sequence[Made]], name: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for made in held.values():
        for value in dict.fromkeys(dict(each).get(name, "not known") for each in made):
            counts[value] = counts.get(value, 0) + 1
    return counts


def _listed(counts: Mapping[str, int]) -> str:
    parts = [f"{value} in {number} {'run' if number == 1 else 'runs'}" for value, number in counts.items()]
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


def _pairs(held: Mapping[RunKey, Sequence[Made]]) -> str:
    """Differences are paired by scenario and seed: they are touched where the runs of a pair are unlike."""
    groups: dict[tuple[str, int], set[tuple[Made, ...]]] = {}
    for key, made in held.items():
        groups.setdefault((key.scenario, key.seed), set()).add(tuple(sorted(made)))
    unlike = [f"{scenario} seed {seed}" for (scenario, seed), made in groups.items() if len(made) > 1]
    if not unlike:
        return "All strategies of a seed were made alike, so that their differences do not come from it."
    more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
    return (
        f"It lies between strategies that are compared in {', '.join(unlike[:3])}{more}: a difference there may come"
        " from it in part."
    )
