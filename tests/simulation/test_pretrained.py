"""`--preset pretrained`: folders stand in for hub ids, and weights that are missing are told once, before any run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.learning.test_pretrained import saved_image, saved_text
from tests.simulation.simulated import Simulate
from tests.simulation.test_simulate import TINY, command
from typer.testing import CliRunner

from fedafd.cli import demo_data
from fedafd.cli.main import app
from fedafd.cli.weights import Trainable, chosen_encoders
from fedafd.domain.config import parse_federation_config
from fedafd.domain.errors import ConfigurationError

SMALLER: dict[str, Any] = {
    "rounds": 1,
    "seeds": [0],
    "strategies": ["fedafd"],
    "federation": {
        "preset": "pretrained",
        "image_encoder": {"image_size": 16},
        "text_encoder": {"max_tokens": 8},
        "server": {"initial_passes": 0, "passes": 1},
        "client": {"local_epochs": 1},
    },
}


def tiny_weights(folder: Path) -> tuple[Path, Path]:
    return saved_image("resnet", folder / "image"), saved_text("bert", folder / "text")


def test_folders_of_weights_are_an_option_and_backbones_stay_frozen(tmp_path: Path, simulate: Simulate) -> None:
    image, text = tiny_weights(tmp_path)
    given = ["--image-weights", str(image), "--text-weights", os.path.relpath(text), "--workers", "1"]
    done = simulate(TINY | SMALLER, *given)
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads((tmp_path / "out" / "runs/iid/fedafd/seed-0/run.json").read_text())
    told = json.dumps(run)
    assert str(image) in told
    assert str(text) in told
    assert '"trainable": "head"' in told
    assert any((tmp_path / "out" / "features").iterdir())


def test_weights_that_are_not_there_are_told_once_and_nothing_begins(tmp_path: Path) -> None:
    experiment = TINY | SMALLER | {"seeds": [0, 1, 2]}
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        command(tmp_path, experiment), capture_output=True, text=True, check=False, env=environment, timeout=600
    )
    assert done.returncode == 2
    assert done.stderr.count("are neither a folder here nor in the hub cache") == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize("trainable", [None, Trainable.LORA])
def test_the_demos_federation_stands_on_the_preset_the_folders_and_what_is_trained(
    trainable: Trainable | None, tmp_path: Path
) -> None:
    image, text = tiny_weights(tmp_path)
    encoders = chosen_encoders(str(image), str(text), trainable)
    (tmp_path / "work").mkdir()
    choices = json.dumps({"work": str(tmp_path / "work"), "seed": 3, "encoders": encoders})
    assert demo_data.main([choices]) == 0
    federation = json.loads((tmp_path / "work" / "plan.json").read_text())["federation"]
    trained = {} if trainable is None else {"trainable": trainable}
    fewer = {} if trainable is None else {"server": {"initial_passes": 6, "passes": 2}}
    assert federation == fewer | {
        "name": "demo",
        "preset": "pretrained",
        "seed": 3,
        "image_encoder": {"pretrained": str(image)} | trained,
        "text_encoder": {"pretrained": str(text)} | trained,
    }
    config = parse_federation_config(federation)
    assert {config.image_encoder.trainable, config.text_encoder.trainable} == {trainable or "head"}


def test_the_demo_tells_weights_that_do_not_fit_before_it_writes_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, _ = tiny_weights(tmp_path)
    encoders = chosen_encoders(str(image), str(image), None)
    choices = json.dumps({"work": str(tmp_path), "seed": 0, "encoders": encoders})
    assert demo_data.main([choices]) == demo_data.ALREADY_REPORTED
    assert str(image) in capsys.readouterr().err
    assert not (tmp_path / "public-set").exists()


@pytest.mark.parametrize("option", ["--image-weights", "--text-weights", "--trainable"])
def test_what_goes_with_pretrained_alone_is_a_mistake_of_the_demos_options(option: str) -> None:
    told = CliRunner().invoke(app, ["demo", option, "lora"]).exception
    assert isinstance(told, ConfigurationError)
    assert "go with --pretrained" in str(told)
