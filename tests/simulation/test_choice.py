"""Which round is chosen, as the rounds come in, against choosing with all of them at hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedafd.algorithm.choices import as_good
from fedafd.simulation.choice import RoundChoice


def chosen(rounds: list[NDArray[np.float64]]) -> RoundChoice:
    choice = RoundChoice(1, rounds[0])
    for number, scores in enumerate(rounds[1:], start=2):
        choice = RoundChoice.from_json(json.loads(json.dumps(choice.after(number, scores).to_json())))
    return choice


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=8))
def test_it_is_the_latest_round_that_is_as_good_as_the_best(rounds: list[list[int]]) -> None:
    scores = [np.array(each, dtype=np.float64) for each in rounds]
    top = max(range(len(scores)), key=lambda i: (scores[i].mean(), i))
    good = [i for i, each in enumerate(scores) if as_good(torch.from_numpy(each), torch.from_numpy(scores[top]))]
    assert chosen(scores).number == max(good) + 1


def test_without_a_validation_sample_it_is_the_latest_round() -> None:
    assert chosen([np.empty(0), np.empty(0), np.empty(0)]).number == 3


def test_a_lucky_early_round_is_not_taken_and_a_clear_fall_is_seen() -> None:
    lucky = np.array([100.0, 0.0, 100.0, 100.0, 0.0])
    usual = np.array([100.0, 100.0, 0.0, 0.0, 100.0])
    assert chosen([lucky, usual]).number == 2
    assert chosen([lucky, np.zeros(5)]).number == 1


def test_a_record_without_its_fields_is_refused() -> None:
    with pytest.raises(KeyError):
        RoundChoice.from_json({"round": 1})
