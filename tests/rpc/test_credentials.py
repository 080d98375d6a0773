"""A call's credential: there, or refused; an empty one is none."""

from __future__ import annotations

import pytest

from fedafd.domain.errors import UnauthenticatedError
from fedafd.rpc.credentials import bearer_metadata, bearer_secret


def test_a_secret_arrives_as_it_was_sent() -> None:
    assert bearer_secret(bearer_metadata("some secret")) == "some secret"


@pytest.mark.parametrize("sent", ["Bearer ", "Bearer", "Bearer  \t ", "", "Basic abc", "bearer"])
def test_a_bearer_with_nothing_behind_it_is_nobody(sent: str) -> None:
    with pytest.raises(UnauthenticatedError):
        bearer_secret((("authorization", sent),))
