"""Two real aggregators whose clocks are 40 s apart, on PostgreSQL: the round completes, and status says who is off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.end_to_end.fault_places import TwoAggregatorsScene

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[TwoAggregatorsScene]:
    made = TwoAggregatorsScene(tmp_path)
    yield made
    made.close()


def test_a_round_completes_beside_clocks_that_differ_and_status_names_them(scene: TwoAggregatorsScene) -> None:
    scene.skewed(0, 20)
    scene.skewed(1, -20)
    services = scene.trial.services
    headers = {"Authorization": f"Bearer {services.api_key}"}

    def told() -> bool:
        said = httpx.get(f"{services.url}/v1/status", headers=headers, timeout=30).text
        return "is 20 s ahead of the database's" in said and "is 20 s behind the database's" in said

    scene.trial.until(told, "status naming both clocks", 60)
    scene.begin_round()
    answer = scene.end_round()
    assert {part["state"] for part in answer["participations"]} == {"delivered"}
    assert "stage.lost" not in [event["kind"] for event in scene.rest.events()]
    scene.compare(answer)
