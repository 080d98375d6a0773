"""Learning rates by round: each schedule counts with the rounds of its own key."""

from __future__ import annotations

from typing import Any

import pytest
from tests.learning.tiny import tiny_federation

from fedafd.domain.kinds import ClientKind
from fedafd.learning.local_training import learning_rate_factor


def factors(rounds: int, **training: Any) -> list[float]:
    config = tiny_federation(server={"schedule_rounds": 20}, client={"image": training})
    return [
        learning_rate_factor(config, config.client.for_kind(ClientKind.IMAGE), number + 1) for number in range(rounds)
    ]


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({}, [1.0] * 20),
        ({"schedule_rounds": 10}, [1.0] * 20),
        ({"schedule": "steps", "schedule_rounds": 10}, [1.0] * 5 + [0.1] * 3 + [0.01] * 12),
        ({"schedule": "steps"}, [1.0] * 10 + [0.1] * 6 + [0.01] * 4),
    ],
    ids=["constant", "constant-with-rounds", "own-rounds", "the-servers-rounds"],
)
def test_steps_of_a_client_count_with_its_own_rounds(training: dict[str, Any], expected: list[float]) -> None:
    assert factors(20, **training) == expected
