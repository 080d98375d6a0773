"""Which answers may go well when the call is repeated, code for code."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from fedafd.domain.errors import ERROR_STATUS, FedafdError
from fedafd.rpc.status import ERROR_CODE_KEY, PASSING, error_from_rpc


class Answer(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, own: str | None = None) -> None:
        self._code, self._trailing = code, ((ERROR_CODE_KEY, own),) if own else ()

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "words"

    def trailing_metadata(self) -> Any:
        return self._trailing


FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
}


def test_the_table_names_every_code_of_a_failure() -> None:
    assert set(PASSING) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_an_answer_that_is_not_ours_passes_unless_it_speaks_of_the_request(code: grpc.StatusCode) -> None:
    assert error_from_rpc(Answer(code)).retryable is (code not in FINAL)


@pytest.mark.parametrize("kind", [kind for kind in ERROR_STATUS if kind is not FedafdError])
def test_an_answer_of_ours_passes_if_its_error_does(kind: type[FedafdError]) -> None:
    answer = Answer(grpc.StatusCode[ERROR_STATUS[kind].grpc], kind.code)
    assert type(error_from_rpc(answer)) is kind
    assert error_from_rpc(answer).retryable is kind.retryable
