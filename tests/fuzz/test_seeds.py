"""A long run's printed seed repeats it: what FUZZ_SEED names is what each fuzzer begins with, 0 as any other."""

from __future__ import annotations

import pytest
from tests.fuzz import long
from tests.fuzz.long import first_seed, libfuzzer_seed


@pytest.mark.parametrize("named", ["0", "1", "2147483647"])
@pytest.mark.parametrize("is_long", [False, True])
def test_the_seed_that_is_named_is_the_one_that_is_taken(
    named: str, is_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long, "SEED", named)
    monkeypatch.setattr(long, "IS_LONG", is_long)
    assert first_seed() == int(named)


def test_without_one_a_short_run_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "SEED", None)
    monkeypatch.setattr(long, "IS_LONG", False)
    assert first_seed() == 0


def test_no_seed_becomes_the_one_by_which_libfuzzer_takes_another_each_time() -> None:
    seeds = [0, 1, 2**31 - 1, 2**32 - 2, 2**32 - 1, 2**40]
    assert all(0 < libfuzzer_seed(seed) < 2**32 for seed in seeds)
    assert len({libfuzzer_seed(seed) for seed in range(1000)}) == 1000
