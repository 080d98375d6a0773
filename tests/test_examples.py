"""examples/: packages are installed as they stand there, and every example runs as its README says."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.learning.tiny import personalized_folder, tiny_private
from tests.servers import ROOT

from fedafd.cli.demo_report import ClientResult, DemoResult, RoundResult
from fedafd.datasets import load_client_data, load_public_data
from fedafd.datasets.report import survey
from fedafd.domain.config import parse_federation_config, read_agent_config, read_federation_config
from fedafd.domain.kinds import ClientKind

EXAMPLES = ROOT / "examples"
PACKAGES = ("own_task", "own_dataset", "own_encoder", "own_strategy")
TRAINED = ("own_task", "own_dataset", "own_encoder", "three_folders", "own_strategy")


def python(*arguments: object, path: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(str(place) for place in (path, ROOT / "services") if place is not None)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, in which tools may leave files."""
    return Path(shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("copy") / "examples"))


@pytest.fixture(scope="module")
def installed(copies: Path) -> Path:
    """A folder with the packages, installed by pip without a network."""
    target = copies.parent / "installed"
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "-q")
    done = python("-m", "pip", "install", *offline, "--target", target, *(copies / name for name in PACKAGES))
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def made(copies: Path) -> Path:
    """The copies, with the data that their scripts make."""
    scripts = {"own_task": "make_notes.py", "own_dataset": "make_database.py", "three_folders": "make_folders.py"}
    for name, script in scripts.items():
        assert python(script, cwd=copies / name).returncode == 0
    return copies


def test_what_the_examples_make_and_read_trains_together(made: Path, installed: Path) -> None:
    """Each example's clients as its own experiment has them, under the strategy of one, in a single run."""
    copies = made
    experiments = {name: yaml.safe_load((copies / name / "experiment.yaml").read_text()) for name in TRAINED}
    public = {"adapter": "flickr", "path": str(copies / "three_folders" / "public")}
    joint: dict[str, Any] = experiments["own_encoder"] | {"strategies": {"quiet": {}}, "clients": [], "public": public}
    for name in TRAINED:
        for client in experiments[name]["clients"] if name != "own_strategy" else ():
            placed = {"path": str(copies / name / client["path"])} if "path" in client else {}
            joint["clients"].append(client | placed)
    (copies / "joint.yaml").write_text(yaml.safe_dump(joint))
    out = copies / "out"
    command = ("-m", "fedafd.cli.main", "simulate", "-f", copies / "joint.yaml", "--output", out, "--workers", "1")
    done = python(*command, "--device", "cpu", path=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads((out / "results.json").read_text())["runs"]
    assert run["strategy"] == "quiet"
    by_metric = sorted(client["metric"] for client in run["clients"].values())
    assert by_metric == ["acc1", "acc1", "acc1", "acc1", "lrap", "rsum"]
    (described,) = [json.loads(path.read_text())["configuration"] for path in out.glob("runs/*/*/*/run.json")]
    assert described["federation"]["distillation"]["weight"] == 1000


def test_the_examples_own_files_are_read_with_the_packages(copies: Path, installed: Path) -> None:
    script = f"""
from pathlib import Path
import torch
from fedafd.domain.config import TaskConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind
from fedafd.learning.tasks import MultiLabel, find_task
from fedafd.simulation.experiment import read_experiment
from fedafd.simulation.no_effect import settings_without_effect
for name in {TRAINED!r}:
    experiment = read_experiment(Path({str(copies)!r}) / name / "experiment.yaml", {{}}, None)
    print(name, len(experiment.runs()), *settings_without_effect(experiment))
plain = find_task(TaskConfig(name="asymmetric", options={{"focus": 0, "margin": 0}}), ClientKind.TEXT)
logits, labels = torch.randn(5, 3), torch.randint(0, 2, (5, 3))
torch.testing.assert_close(plain.loss(logits, labels), MultiLabel().loss(logits, labels))
focused = find_task(TaskConfig(name="asymmetric"), ClientKind.TEXT)
sure_absent = torch.full((1, 3), -6.0)
assert focused.loss(sure_absent, torch.zeros(1, 3)) == 0
try:
    find_task(TaskConfig(name="asymmetric", options={{"gamma": 1}}), ClientKind.TEXT)
except ConfigurationError as error:
    print(error)
"""
    done = python("-c", script, path=installed)
    assert done.returncode == 0, done.stderr
    *lines, refused = done.stdout.splitlines()
    assert lines[:4] == [f"{name} 1" for name in TRAINED[:4]]
    assert lines[4].startswith("own_strategy 3")
    assert "the figures are the same" in lines[4]  # by hand and by name: the one point of that example
    assert refused == "task.options.gamma: asymmetric has focus and margin"


def test_the_tasks_site_is_ready_to_join(made: Path, installed: Path) -> None:
    done = python("-m", "fedafd.cli.main", "agent", "check", "--offline", path=installed, cwd=made / "own_task")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 80 samples read" in done.stdout


def test_the_three_folders_are_what_their_sites_files_say(made: Path) -> None:
    folder = made / "three_folders"
    for name, kind in (("scans", ClientKind.IMAGE), ("reports", ClientKind.TEXT), ("cases", ClientKind.PAIR)):
        config = read_agent_config(folder / f"{name}.yaml")
        assert config.kind is kind
        data = load_client_data(config.data.adapter, folder / name, kind, config.data.options)
        assert survey(data).report.problems() == ()
        assert len(data.labels) == (0 if kind is ClientKind.PAIR else 3)
    federation = read_federation_config(folder / "federation.yaml")
    alike = yaml.safe_load((folder / "experiment.yaml").read_text())["federation"]
    assert parse_federation_config({"name": "arms", **alike}) == federation
    assert {split: len(held) for split, held in load_public_data("flickr", folder / "public").items()}["train"] == 64


def test_the_batch_job_does_each_picture_once_and_tells_bad_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    personalized_folder(ClientKind.IMAGE, tmp_path / "model")
    images: Any = tiny_private(ClientKind.IMAGE).test
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    from PIL import Image

    for number in range(3):
        Image.fromarray(images.images[number]).save(incoming / f"{number}.png")
    (incoming / "broken.png").write_bytes(b"\x89PNG and no more")

    def job() -> tuple[int, list[dict[str, str]]]:
        given = ["predict_new.py", str(tmp_path / "model"), str(incoming), str(tmp_path / "results.csv")]
        monkeypatch.setattr(sys, "argv", [*given, "--sure", "1", "--device", "cpu"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / "batch_predict" / "predict_new.py"), run_name="__main__")
        with (tmp_path / "results.csv").open(newline="") as file:
            return int(ended.value.code or 0), list(csv.DictReader(file))

    code, rows = job()
    assert code == 4
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png", "broken.png"]
    assert "broken.png" in rows[3]["error"]
    assert all(row["review"] == "yes" and 0 < float(row["probability"]) < 1 for row in rows[:3])
    Image.fromarray(images.images[3]).save(incoming / "3.png")
    code, rows = job()
    assert code == 0
    assert [row["file"] for row in rows[4:]] == ["3.png"]
    assert "1 new of 5 pictures, 0 could not be read" in capsys.readouterr().out


@pytest.mark.parametrize("is_named", [True, False])
def test_the_notebook_draws_what_the_demo_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    """Where a variable names the folder, and where a kernel starts: in the notebook's own, one below `make demo`'s."""
    recalls = dict.fromkeys(("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum"), 10.0)
    paid: Any = {"bytes_up": 1, "bytes_down": 2}
    rounds = [RoundResult.of(number, recalls, [paid], 3.0) for number in (1, 2)]
    alike: dict[str, Any] = {"bytes_up": 2**20, "bytes_down": 2**21, "details": {}}
    clients = [
        ClientResult(name="a", kind="image", metric="acc1", alone=40.0, federated=45.0, standard_error=1.0, **alike),
        ClientResult(name="b", kind="text", metric="acc1", alone=40.0, federated=39.0, standard_error=None, **alike),
        ClientResult(name="c", kind="pair", metric="rsum", alone=None, federated=90.0, standard_error=None, **alike),
    ]
    made = DemoResult(seed=0, rounds=rounds, clients=clients, seconds=6.0, seconds_total=9.0, data="generated")
    (tmp_path / "demo-output").mkdir()
    (tmp_path / "demo-output" / "results.json").write_text(json.dumps(made.to_json()))
    if is_named:
        monkeypatch.setenv("FEDAFD_DEMO_OUTPUT", str(tmp_path / "demo-output"))
    else:
        (tmp_path / "examples").mkdir()
        monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = json.loads((EXAMPLES / "demo_to_figure.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert all(not cell.get("outputs") for cell in notebook["cells"])  # kept without anybody's figures
    scope: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
    scope["plt"].close("all")
    from PIL import Image

    for name in ("gains.png", "server.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 300


def test_every_example_and_link_stands_in_the_readme() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"\]\(([^)#:]+)\)", text))
    assert all((EXAMPLES / target).exists() for target in targets)
    tracked = subprocess.run(["git", "ls-files", "."], cwd=EXAMPLES, capture_output=True, text=True, check=False)
    tops = {line.split("/")[0] for line in tracked.stdout.splitlines()} - {"README.md"}
    assert tops <= targets
