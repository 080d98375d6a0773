"""What a run's cost says: bytes as the services move them, seconds of the work."""

from __future__ import annotations

from typing import Any

import pytest
from tests.simulation.test_summary import results

from fedafd.artifacts.blocks import DIGEST_BYTES, block_length
from fedafd.simulation.cost import Meter, bytes_to_fetch, cost_of
from fedafd.simulation.experiment import ExperimentConfig
from fedafd.simulation.report import markdown
from fedafd.simulation.summary import rows_of

BLOB = bytes(range(256)) * 1024
LENGTH = block_length(len(BLOB))
DIGESTS = len(BLOB) // LENGTH * DIGEST_BYTES


def test_the_first_blob_comes_whole_and_later_ones_as_digests_and_changed_blocks() -> None:
    assert bytes_to_fetch(BLOB, None) == len(BLOB)
    assert bytes_to_fetch(BLOB, BLOB[:-1]) == len(BLOB), "another layout"
    assert bytes_to_fetch(BLOB, BLOB) == DIGESTS
    changed = b"x" + BLOB[1:-1] + b"x"
    assert bytes_to_fetch(changed, BLOB) == DIGESTS + 2 * LENGTH
    short = BLOB + b"tail"
    assert bytes_to_fetch(short, short[:-1] + b"x") == DIGESTS + DIGEST_BYTES + 4


def entry(up: int, down: int, **more: float) -> dict[str, Any]:
    return {"core_seconds": 2.0, "traffic": {"a": [up, down], "b": [up, down]}, **more}


def test_a_run_costs_the_sum_of_its_seconds_and_means_of_its_bytes() -> None:
    rounds = [entry(1_000_000, 9_000_000), entry(1_000_000, 2_000_000), entry(1_000_000, 4_000_000)]
    assert cost_of(rounds) == {"core seconds": 6, "MB up": 1, "MB down, first": 9, "MB down, later": 3}
    on_gpu = [entry(1, 1, gpu_seconds=3.0)]
    assert cost_of(on_gpu)["GPU seconds"] == 3
    assert cost_of([{"core_seconds": 1.0}]) == {}, "begun before costs were counted"


@pytest.mark.parametrize(("device", "told"), [("cpu", False), ("cuda:1", True)])
def test_a_gpu_counts_for_as_long_as_it_is_held(device: str, told: bool) -> None:
    read = Meter(device).read()
    assert ("gpu_seconds" in read) == told
    assert read["core_seconds"] >= 0


def test_the_report_tells_costs_where_every_run_has_them() -> None:
    values = {
        "name": "x",
        "rounds": 1,
        "federation": {"preset": "small"},
        "public": {"adapter": "shapes"},
        "clients": [{"kind": "image", "count": 1, "adapter": "shapes"}],
        "strategies": {"fedafd": {}, "local": {}},
        "seeds": [0, 1, 2],
    }
    experiment = ExperimentConfig.model_validate(values)
    runs = [{**run, "cost": {"core seconds": 1100.0 + run["seed"], "MB up": 2.5}} for run in results()]
    told = markdown(experiment, rows_of(runs), [])
    assert "| strategy | runs | core seconds | MB up |" in told
    assert "| local | 3 | 1,101 | 2.5 |" in told
    assert "### Cost" not in markdown(experiment, rows_of([*runs[1:], results()[0]]), [])
