"""Settings that can have no effect are told, and what has an effect is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.simulation.test_experiment import SMALLEST

from fedafd.simulation.experiment import read_experiment
from fedafd.simulation.no_effect import settings_without_effect

EARLY = {"preset": "small", "distillation": {"start_round": 1}}
PAIRS = [{"kind": "pair", "adapter": "shapes", "count": 3}]
IMAGES = [{"kind": "image", "adapter": "shapes", "count": 2}]
VIT = {"architecture": "vit"}


def told(tmp_path: Path, **changes: Any) -> list[str]:
    values = SMALLEST | {"federation": EARLY, "strategies": ["fedafd", "local"]} | changes
    return settings_without_effect(read_experiment(None, values, tmp_path))


def test_the_presets_have_none_but_ablations_of_what_the_paper_does_not_do(tmp_path: Path) -> None:
    assert settings_without_effect(read_experiment(None, {"preset": "small"}, tmp_path)) == []
    found = settings_without_effect(read_experiment(None, {"preset": "paper"}, tmp_path))
    assert len(found) == 4
    assert all("its settings are those of fedafd" in each for each in found)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rounds": 3, "federation": {"distillation": {"start_round": 3}}},
        {"scenarios": {"skewed": {"scheme": "dirichlet", "alpha": 0.5}}},
        {"participation": 0.5, "federation": EARLY | {"distillation": {"staleness_decay": 0.5, "max_staleness": 2}}},
        {"federation": EARLY | {"alignment": {"pairing_weight": 0.4}, "fusion": {"reduction": 2}}},
        {"clients": [IMAGES[0] | {"image_encoder": VIT}]},
        {"strategies": {"fedafd": {}, "warmer": {"distillation": {"temperature": 0.5}}}},
    ],
    ids=str,
)
def test_what_has_an_effect_is_not_told(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert told(tmp_path, **changes) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"rounds": 2, "federation": {"preset": "small", "distillation": {"start_round": 3}}},
            "fedafd: distillation.start_round is 3, but there are 2 rounds: nothing is distilled",
        ),
        ({"rounds": 1, "participation": 0.5}, "participation 0.5: all take part in round 1"),
        (
            {"federation": EARLY | {"distillation": {"start_round": 1, "staleness_decay": 0.5}}},
            "distillation.staleness_decay: every client delivers in every round",
        ),
        ({"scenarios": {"iid": {"alpha": 0.5}}}, "scenario iid: alpha: scheme iid has none"),
        ({"scenarios": {"skewed": {"scheme": "dirichlet"}}, "clients": PAIRS}, "pairs have no labels"),
        (
            {"scenarios": {"skewed": {"scheme": "dirichlet"}}, "clients": [IMAGES[0] | {"count": 1}]},
            "scenario skewed: scheme dirichlet: every group of clients with labels is one client",
        ),
        ({"clients": [IMAGES[0] | {"text_encoder": {"architecture": "bigru"}}]}, "clients[0]: text_encoder: a client"),
        ({"federation": EARLY | {"quorum": {"min_clients": 2}}}, "federation.quorum.min_clients: a simulation has no"),
        ({"federation": EARLY | {"client": {"text": {"batch_size": 8}}}}, "client.text.batch_size: there is no text"),
        (
            {"strategies": {"fedafd": {}, "local": {"alignment": {"weight": 1.0}}}},
            "strategies.local.alignment.weight: alignment.mode is not adversarial",
        ),
        (
            {"strategies": {"fedafd": {"fusion": {"mode": "off", "reduction": 2}}}},
            "strategies.fedafd.fusion.reduction: fusion.mode is off or global",
        ),
        (
            {"federation": EARLY | {"alignment": {"digest_weight": 2.0}}},
            "federation.alignment.digest_weight: alignment.mode is not digest",
        ),
        (
            {"federation": EARLY | {"distillation": {"start_round": 1, "weight_cap": None, "leave_out_copies": False}}},
            "federation.distillation.leave_out_copies: distillation.weight_cap is null",
        ),
        (
            {"federation": EARLY | {"client": {"image": {"schedule_rounds": 4}}}},
            "federation.client.image.schedule_rounds: client.image.schedule is constant",
        ),
        ({"strategies": {"fedafd": {}, "mine": {}}}, "mine: its settings are those of fedafd"),
    ],
    ids=str,
)
def test_what_has_none_is_told(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    found = told(tmp_path, **changes)
    assert len(found) == 1, found
    assert sentence in found[0]
