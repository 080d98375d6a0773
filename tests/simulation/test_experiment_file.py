"""experiment.yaml is read as strictly as every other file of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedafd.domain.errors import ConfigurationError
from fedafd.simulation.data import data_prints
from fedafd.simulation.experiment import read_experiment


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rounds: 2\nrounds: 20\n", r"experiment.yaml: not valid YAML: key 'rounds' occurs twice.*line 2"),
        (b"rounds: caf\xe9\n", r"experiment.yaml: not UTF-8"),
        (b"preset: smal\n", r"experiment.yaml: \(top level\): preset: 'smal' is none of small, pretrained, paper$"),
        (b"", r"experiment.yaml: expected keys and values"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        read_experiment(path, {}, None)


def test_an_error_in_the_data_says_whose_they_are(tmp_path: Path) -> None:
    shapes = {"adapter": "shapes", "options": {"num_train": 8, "num_val": 4, "num_test": 4}}
    values = {"name": "a", "rounds": 1, "federation": {"preset": "small"}, "public": shapes}
    client = {"kind": "image", **shapes}
    experiment = read_experiment(None, values | {"clients": [client, client | {"adapter": "shape"}]}, None)
    with pytest.raises(ConfigurationError, match=r"^clients\[1\] \(image, shape\): data adapter 'shape' is not known"):
        data_prints(experiment)
