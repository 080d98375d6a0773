"""docs/extending.md: its package is installed as it stands there, and its experiment and its site use it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.documents import blocks
from tests.servers import ROOT
from tests.simulation.tiny_federation import FEDERATION

PAGE = "docs/extending.md"


def named(language: str, file: str) -> str:
    """The blocks of one file, joined."""
    first = f"# {file}\n"
    return "".join(block.removeprefix(first) for block in blocks(PAGE, language) if block.startswith(first))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package, installed, its files, and data of the adapter's form."""
    folder = tmp_path_factory.mktemp("extending")
    project = tomllib.loads(named("toml", "pyproject.toml"))["project"]
    info = folder / "installed" / "my_fedafd-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    (folder / "installed" / "my_fedafd.py").write_text(named("python", "my_fedafd.py"))
    (folder / "notes").mkdir()
    for split, count in (("train", 40), ("val", 8), ("test", 8)):
        lines = [
            {"text": f"a {('calm', 'loud')[n % 2]} day, number {split} {n}", "class": "ab"[n % 2]} for n in range(count)
        ]
        (folder / "notes" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    experiment = yaml.safe_load(named("yaml", "experiment.yaml"))
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment | {"federation": FEDERATION}))
    (folder / "agent.yaml").write_text(named("yaml", "agent.yaml"))
    return folder


def run(site: Path, begins: str) -> str:
    """The page's command that begins so."""
    (command,) = [line for block in blocks(PAGE, "sh") for line in block.splitlines() if line.startswith(begins)]
    path = os.pathsep.join([str(site / "installed"), str(ROOT / "services")])
    done = subprocess.run(
        [sys.executable, "-m", "fedafd.cli.main", *shlex.split(command)[1:]],
        cwd=site,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pages_experiment_runs_with_its_adapter_encoder_and_tracker(site: Path) -> None:
    run(site, "fedafd simulate")
    (line,) = (site / "out" / "lines" / "iid" / "fedafd" / "seed-0.jsonl").read_text().splitlines()
    told = json.loads(line)
    (result,) = json.loads((site / "out" / "results.json").read_text())["runs"]
    assert told["round"] == 1
    assert told["server/rsum"] == result["rounds"][0]["server"]["rsum"]
    assert {name.rpartition("/")[0].partition("/")[2] for name in told if "acc1" in name} >= {"federated", "local"}
    assert {client["kind"] for client in result["clients"].values()} == {"text", "image"}


def test_the_pages_task_is_what_its_client_learned_and_its_site_is_checked_with(site: Path) -> None:
    script = """
from fedafd.domain.config import TaskConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind
from fedafd.learning.tasks import find_task
import torch
task = find_task(TaskConfig(name="focal", options={"gamma": 1}), ClientKind.TEXT)
logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
p = logits.softmax(-1)[:, 0]
torch.testing.assert_close(task.loss(logits, labels), ((1 - p) * -p.log()).mean())
try:
    find_task(TaskConfig(name="focal", options={"gama": 1}), ClientKind.TEXT)
except ConfigurationError as error:
    print(error)
"""
    path = os.pathsep.join([str(site / "installed"), str(ROOT / "services")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "one option, gamma" in done.stdout


def test_the_pages_site_is_ready_to_join(site: Path) -> None:
    said = run(site, "fedafd agent check")
    assert "all 56 samples read" in said
    assert "metrics go to json-lines" in said
