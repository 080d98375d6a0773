"""What the soak test calls growth; the test itself is `make soak`, and takes an hour."""

from __future__ import annotations

from tests.end_to_end.soak import Measured, grown

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
