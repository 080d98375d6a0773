"""One home for repeated calls: pauses that nobody shares, and errors that say whether a repeat may help."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tenacity import Retrying, stop_after_attempt, wait_none

from fedafd.domain.errors import ConflictError, FedafdError, StorageUnavailableError
from fedafd.domain.retrying import FullJitter, if_retryable, sleep_in_slices


def test_the_bound_of_a_pause_doubles_up_to_the_longest() -> None:
    pauses = FullJitter(0.5, 8.0)
    for tries, bound in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (10_000, 8.0)):
        drawn = [pauses.after(tries) for _ in range(200)]
        assert 0 <= min(drawn) < 0.25 * bound
        assert 0.75 * bound < max(drawn) <= bound


def test_pauses_leave_the_seeded_generator_of_a_training_alone_and_do_not_follow_it() -> None:
    drawn = []
    for _ in range(2):
        random.seed(7)
        drawn.append(FullJitter(0.5, 8.0).after(5))
        after = random.getstate()
        random.seed(7)
        assert after == random.getstate()
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("error", "calls"), [(StorageUnavailableError("away"), 3), (ConflictError("no"), 1), (OSError("no"), 1)]
)
def test_only_what_may_pass_is_repeated(error: Exception, calls: int) -> None:
    made = []

    def call() -> None:
        made.append(1)
        raise error

    with pytest.raises(type(error)):
        Retrying(retry=if_retryable, stop=stop_after_attempt(3), wait=wait_none(), reraise=True)(call)
    assert len(made) == calls


def test_a_pause_ends_with_what_its_check_raises() -> None:
    with pytest.raises(FedafdError, match="the round is over"):
        sleep_in_slices(_raises(ConflictError("the round is over")))(3600.0)


def _raises(error: Exception) -> Callable[[], None]:
    def check() -> None:
        raise error

    return check
