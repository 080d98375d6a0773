"""What a thread does beside is waited for, and what it raises is raised."""

from __future__ import annotations

from threading import Event

import pytest

from fedafd.learning.beside import beside


def test_work_is_done_while_the_caller_goes_on_and_its_result_is_waited_for() -> None:
    goes_on = Event()
    made = beside(lambda: goes_on.wait(60) and "done")
    goes_on.set()
    assert made() == "done"
    assert made() == "done"


def test_what_the_work_raises_is_raised_where_its_result_is_asked_for() -> None:
    def broken() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        beside(broken)()
