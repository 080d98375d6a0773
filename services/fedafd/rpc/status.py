"""Domain errors as gRPC status and back: the code travels in the trailing metadata `fedafd-error-code`.

An answer without such a code comes from gRPC, from something between the two sides, or from a failure inside the other
side. `PASSING` says which of them may go well when the call is repeated; it holds for every RPC, because each may be
repeated by the same caller with the same effect as once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from fedafd.domain.errors import ERROR_STATUS, DatabaseUnavailableError, FedafdError, StorageUnavailableError
from fedafd.domain.process_errors import PassingAnswerError, UnexpectedAnswerError, UnreachableError
from fedafd.rpc.tls import explain_handshake

__all__ = [
    "DIAL_ANEW_SECONDS",
    "ERROR_CODE_KEY",
    "PASSING",
    "error_from_rpc",
    "has_no_route",
    "is_in_vain",
    "status_of",
]

ERROR_CODE_KEY = "fedafd-error-code"
PASSING: Mapping[grpc.StatusCode, bool] = {
    grpc.StatusCode.CANCELLED: True,
    grpc.StatusCode.UNKNOWN: True,
    grpc.StatusCode.INVALID_ARGUMENT: False,
    grpc.StatusCode.DEADLINE_EXCEEDED: True,
    grpc.StatusCode.NOT_FOUND: False,
    grpc.StatusCode.ALREADY_EXISTS: False,
    grpc.StatusCode.PERMISSION_DENIED: False,
    # What is too busy; also what is too long, which no message of ours is.
    grpc.StatusCode.RESOURCE_EXHAUSTED: True,
    grpc.StatusCode.FAILED_PRECONDITION: False,
    grpc.StatusCode.ABORTED: True,
    grpc.StatusCode.OUT_OF_RANGE: False,
    grpc.StatusCode.UNIMPLEMENTED: False,
    grpc.StatusCode.INTERNAL: True,
    grpc.StatusCode.UNAVAILABLE: True,
    grpc.StatusCode.DATA_LOSS: True,
    grpc.StatusCode.UNAUTHENTICATED: False,
}
"""Of each code of a failed call without a code of ours: whether repeating the call may help."""
DIAL_ANEW_SECONDS = 5.0
"""A caller whose calls fail opens a new connection, at most once in this time."""
_LONGEST_TEXT = 2000
"""Characters; the text travels as a header, of which HTTP/2 takes about 8 KiB."""


def status_of(error: FedafdError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Status code, text and trailing metadata that an error travels as."""
    code = grpc.StatusCode[ERROR_STATUS[_known(type(error))].grpc]
    return code, str(error)[:_LONGEST_TEXT], ((ERROR_CODE_KEY, error.code),)


def error_from_rpc(error: grpc.RpcError) -> FedafdError:
    """The domain error that a failed call stands for."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    text = (error.details() if hasattr(error, "details") else None) or str(code)
    trailing: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    kind = _BY_CODE.get(str(dict(trailing or ()).get(ERROR_CODE_KEY)))
    if kind is not None:
        rebuilt = kind.__new__(kind)
        FedafdError.__init__(rebuilt, text)
        return rebuilt
    if has_no_route(error):
        return UnreachableError("no answer: what is there has no route to an aggregator (HTTP 404); is the name right?")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return UnreachableError(f"no answer: {explain_handshake(text) or text}")
    return (PassingAnswerError if PASSING.get(code, False) else UnexpectedAnswerError)(f"{code.name}: {text}")


def has_no_route(error: grpc.RpcError) -> bool:
    """Whether an Ingress or Gateway answered in place of an aggregator, as while its route is being changed.

    It has a page for that and no gRPC status; gRPC makes UNIMPLEMENTED of it, in words that no aggregator uses.
    """
    code = error.code() if hasattr(error, "code") else None
    text = error.details() if hasattr(error, "details") else None
    return code is grpc.StatusCode.UNIMPLEMENTED and "http2 header with status: 404" in (text or "")


def is_in_vain(error: grpc.RpcError) -> bool:
    """Whether the line stands, but the aggregator at its end cannot serve: behind one address there may be another."""
    if getattr(error, "code", lambda: None)() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return True
    return isinstance(error_from_rpc(error), DatabaseUnavailableError | StorageUnavailableError)


def _known(kind: type[FedafdError]) -> type[FedafdError]:
    return next(base for base in kind.__mro__ if base in ERROR_STATUS)


_BY_CODE = {kind.code: kind for kind in ERROR_STATUS if kind is not FedafdError}
