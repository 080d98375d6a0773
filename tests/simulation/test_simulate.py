"""`fedafd simulate` on generated data: real worker processes, killed for real, resumed to the same figures."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from PIL import Image
from tests.simulation.simulated import Simulate
from tests.simulation.tiny_federation import FEDERATION

from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.simulation.experiment import RunKey, read_experiment
from fedafd.simulation.pool import run_experiment
from fedafd.simulation.run import run_one

TINY: dict[str, Any] = {
    "name": "tiny",
    "rounds": 2,
    "federation": FEDERATION,
    "public": {"adapter": "shapes", "options": {"num_train": 32, "num_val": 8, "num_test": 16, "seed": 1}},
    "clients": [
        {
            "kind": kind,
            "count": 2,
            "adapter": "shapes",
            "options": {"num_train": 48, "num_val": 8, "num_test": 16, "seed": 2},
        }
        for kind in ("image", "text", "pair")
    ],
}


def command(tmp_path: Path, experiment: dict[str, Any], *more: str) -> list[str]:
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment), encoding="utf-8")
    output = ["--output", str(tmp_path / "out"), "--device", "cpu"]
    return [sys.executable, "-m", "fedafd.cli.main", "simulate", "-f", str(file), *output, *more]


def figures(result: dict[str, Any]) -> Any:
    """A run's result without what depends on the clock."""
    rounds = [{k: v for k, v in entry.items() if not k.endswith("seconds")} for entry in result["rounds"]]
    cost = {name: value for name, value in result["cost"].items() if not name.endswith("seconds")}
    return json.dumps({**result, "rounds": rounds, "seconds": 0, "cost": cost}, sort_keys=True)


def test_the_report_is_whole(tmp_path: Path, simulate: Simulate) -> None:
    strategies = ["fedafd", "fedavg", "local"]
    done = simulate(TINY | {"strategies": strategies, "seeds": [0, 1], "rounds": 1}, "--workers", "2")
    assert done.returncode == 0, done.stderr + done.stdout
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert len(results["runs"]) == 6
    differences = {d["strategy"]: d for d in results["differences"] if d["measure"] == "mean"}
    assert set(differences) == set(strategies) - {"fedafd"}
    assert all(d["seeds"] == 2 and d["low"] <= d["mean"] <= d["high"] for d in differences.values())
    with (out / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 6
    assert "| fedavg | 2 |" in (out / "results.md").read_text()
    page = (out / "results.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<td>fedavg</td>" in page
    for name in ("curves-iid.png", "bars-iid.png"):
        with Image.open(out / name) as image:
            assert image.width > 400
    assert not list(out.glob("runs/*/*/*/kept"))
    for path in out.glob("runs/*/*/*/result.json"):
        for client in json.loads(path.read_text())["clients"].values():
            for view, scores in client["scores"].items():
                assert fmean(scores) == pytest.approx(client["metrics"][f"{view}/{client['metric']}"])
            assert ("global" in client["scores"]) is ("global/rsum" in client["metrics"])
    assert not any("scores" in client for run in results["runs"] for client in run["clients"].values())
    assert {len(clients) for clients in results["clients"].values()} == {4, 12}
    assert all(d["standard_error"] >= 0 for clients in results["clients"].values() for d in clients.values())


def test_a_full_disk_is_named_and_the_same_command_goes_on(tmp_path: Path, simulate: Simulate) -> None:
    experiment = TINY | {"strategies": ["local"], "seeds": [0], "rounds": 1}

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))

    wanted = command(tmp_path, experiment, "--workers", "1")
    full = subprocess.run(wanted, capture_output=True, text=True, check=False, preexec_fn=fill)
    assert full.returncode == 1, full.stderr + full.stdout
    told = " ".join(full.stdout.split())
    assert "failed iid / local / seed 0" in told
    assert "File too large; mend it, and the same command goes on" in told
    assert "Traceback" not in full.stdout + full.stderr
    done = simulate(experiment, "--workers", "1")
    assert done.returncode == 0, done.stderr + done.stdout


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    wanted = command(tmp_path, TINY)
    done = subprocess.run(wanted, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'out'}: File exists\n"


def test_a_killed_experiment_goes_on_to_the_same_figures(tmp_path: Path) -> None:
    experiment = TINY | {"strategies": ["fedafd"], "rounds": 3}
    whole = read_experiment(None, experiment, tmp_path)
    key = RunKey(scenario="iid", strategy="fedafd", seed=0)
    wanted = run_one(whole, key, tmp_path / "unbroken", device="cpu")

    process = subprocess.Popen(
        command(tmp_path, experiment, "--workers", "1"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = tmp_path / "out" / key.folder
    deadline = time.monotonic() + 240
    while not (folder / "progress.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists()
    assert len(json.loads((folder / "progress.json").read_text())["rounds"]) in (1, 2)

    again = run_one(whole, key, tmp_path / "out", device="cpu")
    assert figures(again) == figures(wanted)


def workers_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_workers_end_with_their_parent_and_a_folder_has_one_simulation(tmp_path: Path) -> None:
    wanted = command(tmp_path, TINY | {"strategies": ["fedafd"], "rounds": 500}, "--workers", "2")
    first = subprocess.Popen(wanted, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    # No deeper: folders of stages at work come and go, and a search that stands in one fails.
    while not list((tmp_path / "out").glob("runs/*/*/*/progress.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = workers_of(first.pid)
    assert len(workers) >= 2

    second = subprocess.run(wanted, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "another simulation is at work here; wait for it or choose another folder" in second.stderr.replace(
        "\n", " "
    )

    first.kill()
    first.wait()
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def test_a_run_that_an_older_version_began_is_refused(tmp_path: Path) -> None:
    experiment = read_experiment(None, TINY | {"strategies": ["local"]}, tmp_path)
    key = RunKey(scenario="iid", strategy="local", seed=0)
    folder = tmp_path / "out" / key.folder
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"rounds": [], "best": {}, "averages": [], "ages": {}}))
    with pytest.raises(DataError, match="begun by an older version of FedAFD; remove it to do the run anew"):
        run_one(experiment, key, tmp_path / "out", device="cpu")


def test_another_configuration_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    local = TINY | {"strategies": ["local"], "rounds": 1, "clients": TINY["clients"][:1]}
    first = read_experiment(None, local, tmp_path)
    run_one(first, first.runs()[0], tmp_path, device="cpu")
    (tmp_path / first.runs()[0].folder / "result.json").unlink()
    other = read_experiment(None, local | {"rounds": 2}, tmp_path)
    with pytest.raises(ConfigurationError, match="holds a run of another configuration or of other data"):
        run_one(other, other.runs()[0], tmp_path, device="cpu")


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path: Path, simulate: Simulate) -> None:
    diverging = {"server": {"learning_rate": 1e30}}
    experiment = TINY | {
        "strategies": {"local": {}, "diverging": diverging},
        "rounds": 1,
        "clients": TINY["clients"][:1],
    }
    done = simulate(experiment, "--workers", "1")
    assert done.returncode == 1
    assert "failed iid / diverging / seed 0: global training, round 1" in " ".join(done.stdout.split())
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["runs"]) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--strategies", "fedprox"], "--strategies fedprox: fedprox is not in the experiment"),
        (["--device", "gpu"], "--device gpu: expected auto, cpu, cuda, cuda:N or mps, or cuda:N,cuda:M"),
        (["--workers", "0"], "--workers 0: expected 1 or more"),
        pytest.param(
            ["--device", "cuda:77"], "device: cuda:77 is asked for, but it is not here", id="a device that is not here"
        ),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_mistakes_are_one_line(tmp_path: Path, given: list[str], told: str) -> None:
    done = subprocess.run(command(tmp_path, TINY, *given), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {told}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("segmentation", "task.name: 'segmentation' is not known; installed: classification"),
        ("retrieval", "task.name: retrieval serves clients of kind pair, not image"),
    ],
)
def test_a_task_that_a_client_cannot_have_is_told_before_any_run_starts(tmp_path: Path, task: str, told: str) -> None:
    clients = [TINY["clients"][0] | {"task": {"name": task}}]
    experiment = read_experiment(None, TINY | {"clients": clients, "strategies": ["local"]}, tmp_path)
    with pytest.raises(ConfigurationError, match=told):
        run_experiment(experiment, tmp_path / "out", device="cpu", workers=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(600)
def test_a_hundred_clients(tmp_path: Path) -> None:
    clients = [
        {
            "kind": kind,
            "count": count,
            "adapter": "shapes",
            "options": {"num_train": 8 * count, "num_val": 4, "num_test": 8},
        }
        for kind, count in (("image", 40), ("text", 40), ("pair", 20))
    ]
    public = TINY["public"] | {"options": {"num_train": 16, "num_val": 4, "num_test": 4, "seed": 1}}
    values = {"clients": clients, "public": public, "rounds": 1, "strategies": ["fedafd"]}
    experiment = read_experiment(None, TINY | values, tmp_path)
    result = run_one(experiment, experiment.runs()[0], tmp_path, device="cpu")
    assert len(result["clients"]) == 100
    assert {client["num_private_samples"] for client in result["clients"].values()} == {8}
