"""A part of the fault matrix (`make test-faults` runs all of it), and a site that counts with what it sent before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.end_to_end.fault_matrix import FAULTS, run_line
from tests.end_to_end.fault_scene import GRACE_SECONDS, Scene, flip
from tests.end_to_end.federation import FEDERATION

from fedafd.distiller.shutdown import HARD_END_SECONDS

pytestmark = pytest.mark.timeout(400)
PART = (("store away", "preparing"), ("store away", "training"))
COUNTS_LATER = {"distillation": {"start_round": 1, "staleness_decay": 0.5}}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, FEDERATION | COUNTS_LATER)
    yield made
    made.close()


def test_faults_cost_no_round_and_no_bit_and_who_is_absent_counts_with_what_it_sent_before(scene: Scene) -> None:
    faults = {fault.name: fault for fault in FAULTS}
    for name, moment in PART:
        line = run_line(scene, faults[name], moment)
        assert not line.red, line
    kinds = [event["kind"] for event in scene.rest.events()]
    # An outage is no failure of a stage.
    assert "stage.failed" not in kinds
    assert "stage.lost" not in kinds

    # A site whose saved states are all damaged leaves the round; the one before is counted at half its weight.
    for path in (scene.folder / "images" / "state").glob("*/state.safetensors"):
        flip(path)
    scene.begin_round()
    answer = scene.end_round()
    parts = {part["client"]: part["state"] for part in answer["participations"]}
    assert parts == {"images": "dropped", "pairs": "delivered", "texts": "delivered"}
    scene.compare(answer, absent={"images"})


def test_a_distiller_ends_within_its_bound_beside_an_aggregator_that_hangs(scene: Scene) -> None:
    """The round goes on with another one as soon as the aggregator does."""
    scene.begin_round()
    scene.until("preparing")
    with scene.frozen("aggregator"):
        seconds = scene.end("distiller")
    assert seconds < GRACE_SECONDS + HARD_END_SECONDS + 1
    scene.start("distiller")
    scene.compare(scene.end_round())
