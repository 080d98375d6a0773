"""One table, one configuration, one data set: runs of others are refused, named, or set aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.simulation.simulated import Simulate
from tests.simulation.test_simulate import TINY

from fedafd.domain.errors import ConfigurationError
from fedafd.simulation.data import data_prints
from fedafd.simulation.experiment import ExperimentConfig, RunKey, read_experiment
from fedafd.simulation.kept_runs import check_kept_runs, note_run

KEY = RunKey(scenario="iid", strategy="local", seed=0)


def picture_folder(root: Path, seed: int, each: int = 12) -> Path:
    """Two classes of noise in the layout of the adapter image-folder."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", each), ("val", 4), ("test", 4)):
        for name in ("left", "right"):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def described(pictures: Path, **changes: Any) -> dict[str, Any]:
    clients = [{"kind": "image", "adapter": "image-folder", "path": str(pictures)}]
    return TINY | {"rounds": 1, "strategies": ["local", "fedavg"], "clients": clients} | changes


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return picture_folder(tmp_path / "pictures", seed=0)


def experiment(tmp_path: Path, pictures: Path, **changes: Any) -> ExperimentConfig:
    return read_experiment(None, described(pictures, **changes), tmp_path)


def keep(output: Path, made: ExperimentConfig, key: RunKey = KEY) -> Path:
    folder = output / key.folder
    folder.mkdir(parents=True, exist_ok=True)
    note_run(folder, made, key, data_prints(made), "cpu")
    return folder


def test_the_same_data_elsewhere_go_on(tmp_path: Path, pictures: Path) -> None:
    keep(tmp_path / "out", experiment(tmp_path, pictures))
    moved = experiment(tmp_path, pictures.rename(tmp_path / "moved"), strategies=["fedafd", "local"], seeds=[0, 1])
    assert check_kept_runs(moved, tmp_path / "out", data_prints(moved)) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rounds": 2}, "rounds: 1 then, 2 now"),
        (
            {"federation": TINY["federation"] | {"server": {"passes": 2, "batch_size": 16}}},
            "federation.server.passes: 1 then, 2 now",
        ),
        ({"scenarios": {"iid": {"scheme": "dirichlet"}}}, 'scenario.scheme: "iid" then, "dirichlet" now'),
        ({"participation": 0.5}, "participation: not there then, 0.5 now"),
    ],
    ids=str,
)
def test_other_settings_are_named(tmp_path: Path, pictures: Path, changes: dict[str, Any], told: str) -> None:
    keep(tmp_path / "out", experiment(tmp_path, pictures))
    other = experiment(tmp_path, pictures, **changes)
    with pytest.raises(ConfigurationError) as refused:
        check_kept_runs(other, tmp_path / "out", data_prints(other))
    assert f"iid / local / seed 0 ({told}" in str(refused.value)
    assert "choose another --output, or add --restart" in str(refused.value)


@pytest.mark.parametrize("seeds", [[0, 1], [1]], ids=["the run is asked for", "the run is not asked for"])
def test_other_data_are_named_with_their_counts(tmp_path: Path, pictures: Path, seeds: list[int]) -> None:
    keep(tmp_path / "out", experiment(tmp_path, pictures))
    changed = picture_folder(tmp_path / "changed", seed=1, each=8)
    other = experiment(tmp_path, changed, seeds=seeds)
    with pytest.raises(ConfigurationError) as refused:
        check_kept_runs(other, tmp_path / "out", data_prints(other))
    told = str(refused.value)
    assert "iid / local / seed 0 (data of clients[0] (image, image-folder): 24/8/8 samples with" in told
    assert "16/8/8 samples with fingerprint" in told
    assert "public set" not in told


def test_one_pixel_is_another_data_set(tmp_path: Path, pictures: Path) -> None:
    made = experiment(tmp_path, pictures)
    keep(tmp_path / "out", made)
    path = pictures / "train" / "left" / "0.png"
    with Image.open(path) as image:
        changed = image.convert("RGB")
    changed.putpixel((0, 0), tuple(255 - value for value in changed.getpixel((0, 0))))  # type: ignore[union-attr]
    changed.save(path)
    with pytest.raises(ConfigurationError, match="data of clients"):
        check_kept_runs(made, tmp_path / "out", data_prints(made))


def test_restart_sets_aside_what_differs_and_nothing_else(tmp_path: Path, pictures: Path) -> None:
    made = experiment(tmp_path, pictures)
    kept = keep(tmp_path / "out", made, RunKey(scenario="iid", strategy="fedavg", seed=0))
    changed = experiment(tmp_path, pictures, strategies={"fedavg": {}, "local": {"server": {"passes": 2}}})
    gone = keep(tmp_path / "out", made)
    (note,) = check_kept_runs(changed, tmp_path / "out", data_prints(changed), restart=True)
    assert note.startswith("iid / local / seed 0 set aside in ")
    assert kept.exists()
    assert not gone.exists()
    (aside,) = (tmp_path / "out" / "set-aside").glob("*/runs/iid/local/seed-0/run.json")
    assert json.loads(aside.read_text())["seed"] == 0
    assert check_kept_runs(changed, tmp_path / "out", data_prints(changed)) == []


def test_a_report_refuses_runs_that_differ_among_themselves(tmp_path: Path, pictures: Path) -> None:
    made = experiment(tmp_path, pictures)
    keep(tmp_path / "out", made)
    assert check_kept_runs(made, tmp_path / "out", None) == []
    other = experiment(tmp_path, picture_folder(tmp_path / "changed", seed=1))
    keep(tmp_path / "out", other, RunKey(scenario="iid", strategy="fedavg", seed=0))
    with pytest.raises(ConfigurationError, match="data of clients"):
        check_kept_runs(made, tmp_path / "out", None)


def test_an_older_run_is_taken_with_a_note_if_its_configuration_fits(tmp_path: Path, pictures: Path) -> None:
    made = experiment(tmp_path, pictures)
    folder = tmp_path / "out" / KEY.folder
    folder.mkdir(parents=True)
    record = {**KEY.model_dump(), "fingerprint": made.fingerprint(KEY)}
    (folder / "run.json").write_text(json.dumps(record))
    (note,) = check_kept_runs(made, tmp_path / "out", data_prints(made))
    assert "iid / local / seed 0: made by an older version, which kept nothing of the data" in note
    (folder / "run.json").write_text(json.dumps(record | {"fingerprint": "0" * 64}))
    with pytest.raises(ConfigurationError, match="an older version kept no more of it than a hash"):
        check_kept_runs(made, tmp_path / "out", data_prints(made))


def test_a_setting_that_did_not_exist_yet_counts_with_its_default(tmp_path: Path, pictures: Path) -> None:
    made = experiment(tmp_path, pictures)
    folder = keep(tmp_path / "out", made)
    record = json.loads((folder / "run.json").read_text())
    del record["configuration"]["federation"]["distillation"]["staleness_decay"]
    (folder / "run.json").write_text(json.dumps(record))
    assert check_kept_runs(made, tmp_path / "out", data_prints(made)) == []


def test_runs_of_before_weights_had_a_cap_count_as_runs_without(tmp_path: Path, pictures: Path) -> None:
    made = experiment(tmp_path, pictures)
    folder = keep(tmp_path / "out", made)
    record = json.loads((folder / "run.json").read_text())
    for name in ("weight_cap", "leave_out_copies"):
        del record["configuration"]["federation"]["distillation"][name]
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigurationError, match='distillation.weight_cap: null then, "auto" now'):
        check_kept_runs(made, tmp_path / "out", data_prints(made))


def test_other_versions_are_not_refused(tmp_path: Path, pictures: Path) -> None:
    made = experiment(tmp_path, pictures)
    folder = keep(tmp_path / "out", made)
    record = json.loads((folder / "run.json").read_text())
    record["made_with"][0]["torch"] = "1.0.0"
    (folder / "run.json").write_text(json.dumps(record))
    keep(tmp_path / "out", made)
    assert check_kept_runs(made, tmp_path / "out", data_prints(made)) == []
    assert len(json.loads((folder / "run.json").read_text())["made_with"]) == 2


def test_the_command_refuses_a_second_data_set_and_restarts(tmp_path: Path, pictures: Path, simulate: Simulate) -> None:
    wanted = described(pictures, strategies=["local"], seeds=[0])
    assert simulate(wanted, "--workers", "1").returncode == 0
    pictures.rename(tmp_path / "before")
    picture_folder(pictures, seed=1)
    refused = simulate(wanted | {"seeds": [0, 1]}, "--workers", "1")
    assert refused.returncode == 2
    assert "data of clients[0] (image, image-folder)" in refused.stderr
    assert "Traceback" not in refused.stderr + refused.stdout
    assert "| local | 1 |" in (tmp_path / "out" / "results.md").read_text()
    again = simulate(wanted | {"seeds": [0, 1]}, "--workers", "1", "--restart")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "set aside in" in again.stderr
    assert "| local | 2 |" in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.parametrize("name", ["seed-0.bak", "seed-x", "seed-00", "seed-", "seed-²"])
def test_a_folder_that_somebody_made_beside_the_runs_is_left_alone(tmp_path: Path, pictures: Path, name: str) -> None:
    made = experiment(tmp_path, pictures)
    beside = keep(tmp_path / "out", made).rename(tmp_path / "out/runs/iid/local" / name)
    others = experiment(tmp_path, picture_folder(tmp_path / "others", seed=1))
    assert check_kept_runs(others, tmp_path / "out", data_prints(others)) == []
    assert (beside / "run.json").exists()
