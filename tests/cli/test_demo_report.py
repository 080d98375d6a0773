"""The demo's table says of each gain how far chance reaches, and calls a loss only what lies beyond."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedafd.agent.kept_scores import KeptScores, SplitScores
from fedafd.cli.demo_alone import standard_error
from fedafd.cli.demo_report import ClientResult, DemoResult, print_report
from fedafd.learning.evaluation import Evaluation


def printed(alone: float | None, federated: float, error: float | None) -> str:
    client = ClientResult(
        name="texts",
        kind="text",
        metric="acc1",
        alone=alone,
        federated=federated,
        standard_error=error,
        bytes_up=1,
        bytes_down=1,
        details={},
    )
    result = DemoResult(seed=0, rounds=[], clients=[client], seconds=1.0, seconds_total=1.0, data="")
    file = io.StringIO()
    print_report(Console(file=file, width=80), result)
    return file.getvalue()


@pytest.mark.parametrize(
    ("federated", "error", "told", "lost"),
    [
        (78.0, 1.5, "-2.0 ± 1.5", True),
        (78.0, 2.0, "-2.0 ± 2.0", False),
        (79.0, 1.5, "-1.0 ± 1.5", False),
        (83.0, 1.5, "+3.0 ± 1.5", False),
        (78.0, 0.0, "-2.0 ± 0.0", True),
        (78.0, None, "-2.0", False),
    ],
)
def test_a_loss_is_one_beyond_the_standard_error(federated: float, error: float | None, told: str, lost: bool) -> None:
    text = printed(80.0, federated, error)
    assert told in text
    assert ("lost" in text) is lost
    assert "standard error" in text


def test_without_the_comparison_no_gain_is_told() -> None:
    assert "±" not in printed(None, 78.0, None).split("gain:")[0]


def kept(root: Path, number: int, scores: list[float]) -> None:
    found = Evaluation({"acc1": float(np.mean(scores))}, np.array(scores))
    about = {"round": number, "participation": number, "delivered_at": "2026-01-01T00:00:00+00:00"}
    path = root / "state" / "history" / f"round-{number}.npz"
    KeptScores({"test": SplitScores("same", {"federated": found})}, about).write(path)


def test_the_standard_error_is_of_the_paired_difference_to_the_last_round(tmp_path: Path) -> None:
    kept(tmp_path, 1, [0.0, 0.0, 0.0, 0.0])
    kept(tmp_path, 2, [100.0, 100.0, 0.0, 0.0])
    behind = np.array([0.0, 100.0, 0.0, -100.0])
    assert standard_error(tmp_path, [100.0, 0.0, 0.0, 100.0]) == pytest.approx(behind.std(ddof=1) / 2)


def test_scores_of_other_samples_or_none_have_no_standard_error(tmp_path: Path) -> None:
    assert standard_error(tmp_path, [100.0]) is None
    kept(tmp_path, 1, [100.0, 0.0])
    assert standard_error(tmp_path, [100.0]) is None
