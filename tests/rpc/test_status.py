"""Errors and credentials survive the wire, and only what was meant passes."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from fedafd.domain.errors import ERROR_STATUS, FedafdError, IllegalTransitionError, UnauthenticatedError, UploadError
from fedafd.domain.process_errors import UnexpectedAnswerError, UnreachableError
from fedafd.rpc.credentials import bearer_metadata, bearer_secret
from fedafd.rpc.status import ERROR_CODE_KEY, error_from_rpc, status_of


class Failed(grpc.RpcError):
    """A failed call as a client sees it."""

    def __init__(self, code: grpc.StatusCode, details: str | None, trailing: Any = ()) -> None:
        self._answers = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._answers[0]

    def details(self) -> str | None:
        return self._answers[1]

    def trailing_metadata(self) -> Any:
        return self._answers[2]


@pytest.mark.parametrize("kind", [kind for kind in ERROR_STATUS if kind is not FedafdError])
def test_every_domain_error_comes_back_as_itself(kind: type[FedafdError]) -> None:
    error = kind(old="a", new="b") if kind is IllegalTransitionError else kind("what, where, what to do")
    code, text, trailing = status_of(error)
    assert code.name == ERROR_STATUS[kind].grpc
    back = error_from_rpc(Failed(code, text, trailing))
    assert type(back) is kind
    assert (str(back), back.retryable) == (str(error), error.retryable)


def test_a_subclass_travels_as_the_error_it_is_a_kind_of() -> None:
    class SpecialError(UploadError):
        """A plugin's own."""

    code, _, trailing = status_of(SpecialError("x"))
    assert (code, dict(trailing)[ERROR_CODE_KEY]) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")


def test_an_error_of_any_length_fits_into_a_header() -> None:
    assert len(status_of(UploadError("x" * 10**6))[1]) == 2000


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_an_answer_that_did_not_come_may_be_tried_again(code: grpc.StatusCode) -> None:
    error = error_from_rpc(Failed(code, "connection refused"))
    assert isinstance(error, UnreachableError)
    assert error.retryable


def test_an_unknown_answer_that_speaks_of_the_request_is_not_tried_again() -> None:
    for failed in (
        Failed(grpc.StatusCode.OUT_OF_RANGE, "boom"),
        Failed(grpc.StatusCode.FAILED_PRECONDITION, None, ((ERROR_CODE_KEY, "from-the-future"),)),
    ):
        error = error_from_rpc(failed)
        assert isinstance(error, UnexpectedAnswerError)
        assert not error.retryable


def test_a_secret_comes_back_from_its_metadata() -> None:
    assert bearer_secret(bearer_metadata("s3cret")) == "s3cret"
    assert bearer_secret([("user-agent", "x"), *bearer_metadata("s")]) == "s"


@pytest.mark.parametrize(
    "metadata",
    [None, (), (("authorization", "s"),), (("authorization", b"Bearer s"),), (("Authorization", "Bearer s"),)],
)
def test_metadata_without_a_secret_is_unauthenticated(metadata: Any) -> None:
    with pytest.raises(UnauthenticatedError, match="no credential"):
        bearer_secret(metadata)
