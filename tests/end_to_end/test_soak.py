"""What the soak test calls growth; the test itself is `make soak`, and takes an hour."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.end_to_end.fault_matrix import ELSEWHERE, page_of
from tests.end_to_end.soak import Measured, grown
from tests.end_to_end.soaked import Soaked, record, recorded
from tests.servers import ROOT

_MIB = 1 << 20


def history(rounds: int, *, leak: int = 0, handles: int = 0, rows: int = 10, site: int = 0) -> list[Measured]:
    return [
        Measured(
            processes={("aggregator", 7): (100 * _MIB + leak * number, 20 + handles * number)},
            rows=sum(10 + (rows - 10) * (each > rounds // 2) for each in range(number)),
            objects=5 * number,
            store_bytes=_MIB * number,
            site_bytes=_MIB + site * number,
        )
        for number in range(rounds)
    ]


def test_what_each_round_adds_is_no_growth() -> None:
    assert grown(history(20)) == []


def test_leaks_of_a_process_are_found() -> None:
    assert grown(history(20, leak=8 * _MIB))[0].startswith("memory of aggregator")
    assert grown(history(20, handles=2))[0].startswith("handles of aggregator")


def test_rounds_that_add_more_and_more_and_sites_that_fill_are_found() -> None:
    assert grown(history(20, rows=30))[0].startswith("rows that a round adds")
    assert grown(history(20, site=_MIB))[0].startswith("bytes of the sites' folders")


def test_the_page_of_faults_says_of_soaks_what_was_recorded_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "soak.json"
    monkeypatch.setattr("tests.end_to_end.fault_matrix._SOAKED", file)
    assert recorded(file) == []
    assert "every bit was equal" not in page_of("", 0, 0)
    record(file, Soaked("2026-01-02", 40, 2, ()))
    record(file, Soaked("2026-01-01", 8, 1, ("memory of aggregator: 1 to 2 in 8 rounds",)))
    record(file, Soaked("2026-01-03", 40, 2, ()))
    page = page_of("", 0, 0)
    assert "On 2026-01-01, of 8 rounds with seed 1 every bit was equal, and memory of aggregator: 1 to 2" in page
    assert "On 2026-01-03, of 40 rounds with seed 2 every bit was equal, and nothing grew." in page
    assert "2026-01-02" not in page


def test_what_is_tested_elsewhere_is_there() -> None:
    assert all((ROOT / path).exists() for path in ELSEWHERE.values())
    assert all(f"`{path}`" in (ROOT / "docs" / "faults.md").read_text(encoding="utf-8") for path in ELSEWHERE.values())
