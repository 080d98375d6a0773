"""experiment.yaml is read as strictly as every other file of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedafd.domain.errors import ConfigurationError
from fedafd.simulation.experiment import read_experiment


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rounds: 2\nrounds: 20\n", r"experiment.yaml: not valid YAML: key 'rounds' occurs twice.*line 2"),
        (b"rounds: caf\xe9\n", r"experiment.yaml: not UTF-8"),
        (b"", r"experiment.yaml: expected keys and values"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        read_experiment(path, {}, None)
