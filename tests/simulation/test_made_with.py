"""Runs that were not made alike are told in words: what differed, what it means, and whether pairs are touched."""

from __future__ import annotations

import json
from pathlib import Path

from fedafd.simulation.experiment import RunKey
from fedafd.simulation.made_with import made_with_note

USUAL = {"torch": "2.11", "numpy": "2.3", "device": "cpu (x86_64)", "threads": "1"}


def keep(output: Path, strategy: str, seed: int, *made: dict[str, str]) -> RunKey:
    key = RunKey(scenario="iid", strategy=strategy, seed=seed)
    (output / key.folder).mkdir(parents=True)
    (output / key.folder / "run.json").write_text(json.dumps({"made_with": [USUAL | each for each in made]}))
    return key


def test_runs_that_were_made_alike_or_of_which_nothing_is_known_get_no_word(tmp_path: Path) -> None:
    keys = [keep(tmp_path, "fedafd", 0, {}), keep(tmp_path, "local", 0, {}), keep(tmp_path, "local", 1)]
    keys.append(RunKey(scenario="iid", strategy="never-run", seed=0))
    assert made_with_note(tmp_path, keys) is None


def test_other_threads_are_said_to_change_rounding_and_not_the_pairs_of_a_seed(tmp_path: Path) -> None:
    keys = [keep(tmp_path, name, seed, {"threads": str(seed + 1)}) for seed in (0, 1) for name in ("fedafd", "local")]
    note = made_with_note(tmp_path, keys)
    assert note is not None
    assert "not all made alike (threads: 1 in 2 runs, 2 in 2 runs)." in note
    assert "so the rounding of a run, and neither its method nor its random choices" in note
    assert note.endswith("All strategies of a seed were made alike, so that their differences do not come from it.")
    assert "numpy" not in note


def test_another_version_between_compared_strategies_is_said_to_matter(tmp_path: Path) -> None:
    keys = [keep(tmp_path, "fedafd", 0, {}), keep(tmp_path, "local", 0, {}, {"torch": "2.12"})]
    note = made_with_note(tmp_path, keys)
    assert note is not None
    assert "(torch: 2.11 in 2 runs, 2.12 in 1 run)" in note
    assert "Another version (torch) may compute otherwise in more than rounding" in note
    assert "between strategies that are compared in iid seed 0: a difference there may come from it in part" in note
